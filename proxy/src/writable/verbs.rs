//! Which statements a segment's writer runs.

use std::fmt;

use sync::verb::Verb;

/// A set of [`Verb`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbs(u16);

impl Default for Verbs {
    /// INSERT and UPDATE.
    fn default() -> Self {
        [Verb::Insert, Verb::Update].into_iter().collect()
    }
}

impl Verbs {
    /// Whether `verb` is among them.
    pub fn has(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u16) != 0
    }

    /// Whether one that changes the schema is.
    pub(super) fn change_the_schema(self) -> bool {
        Verb::all().any(|verb| verb.is_of_schema() && self.has(verb))
    }

    /// These and `more`.
    pub fn with(self, more: impl IntoIterator<Item = Verb>) -> Self {
        Self(self.0 | more.into_iter().collect::<Self>().0)
    }
}

impl FromIterator<Verb> for Verbs {
    fn from_iter<I: IntoIterator<Item = Verb>>(verbs: I) -> Self {
        Self(verbs.into_iter().fold(0, |set, verb| set | 1 << verb as u16))
    }
}

impl fmt::Display for Verbs {
    /// For messages: `INSERT, UPDATE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Verb::all().filter(|verb| self.has(*verb));
        let names: Vec<_> = names.map(|verb| verb.name().to_ascii_uppercase()).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it() {
        for verb in Verb::all() {
            assert!([verb].into_iter().collect::<Verbs>().has(verb));
        }
        let more = Verbs::default().with([Verb::DropTable]);
        assert_eq!(more.to_string(), "INSERT, UPDATE, DROP TABLE");
        assert!(more.change_the_schema() && !Verbs::default().change_the_schema());
        assert!(!more.has(Verb::Delete));
    }
}
