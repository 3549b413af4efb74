//! The hash that orders segments and breaks ties between nodes.
//!
//! Invariant: it depends on names and weights alone, so two leads with the same view choose the same nodes.
//!
//! The score is weighted rendezvous hashing, `-weight / ln(h)` with `h` in (0, 1): Schindelhauer and Schomaker,
//! SPAA 2005. A node's chance to score highest is its share of all weights.

/// A name as 64 bits, spread evenly: the first 8 bytes of its BLAKE3.
pub(super) fn of_name(name: &str) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// How much the node with `node_hash` draws the segment with `segment_hash`; the highest wins.
pub(super) fn score(segment_hash: u64, node_hash: u64, weight: u64) -> f64 {
    // 53 bits fill a float's fraction exactly; the half keeps the value off 0 and 1
    let unit = ((mix(segment_hash ^ node_hash) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -(weight as f64) / unit.ln()
}

/// The finishing step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit reaches every output
/// bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_wins_as_often_as_its_weight_says() {
        let nodes = [("a", 1), ("b", 1), ("c", 2), ("d", 4)].map(|(n, w)| (of_name(n), w));
        let mut wins = [0_u32; 4];
        for n in 0..8000 {
            let segment = of_name(&format!("segment{n}"));
            let score = |i: &usize| score(segment, nodes[*i].0, nodes[*i].1);
            let best = (0..4).max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
            wins[best] += 1;
        }
        for (won, expected) in wins.iter().zip([1000_u32, 1000, 2000, 4000]) {
            assert!(won.abs_diff(expected) < 150, "{wins:?}");
        }
    }
}
