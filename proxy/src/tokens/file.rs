//! A file of tokens.
//!
//! Invariants: what others on this machine can read or change is no secret, and is refused; a file with anything in it
//! that is no token is refused whole, with the line and never with what stands there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The shortest token: 16 random letters and digits take longer to guess than a disk lives.
pub const TOKEN_BYTES_MIN: usize = 16;
/// The longest; it goes into a line of an HTTP head.
pub const TOKEN_BYTES_MAX: usize = 512;
/// The most tokens of a file: each is compared with each request's.
pub const TOKENS_MAX: usize = 64;
/// The longest file: as many of the longest tokens as there may be, and as much again of comments.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Group and others: reading, writing and running.
const OTHERS: u32 = 0o077;

/// Why a file of tokens is not used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("read the tokens in {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, a pipe or the like.
    #[error("read the tokens in {0}: it is no regular file; name a file with one token on a line")]
    NotAFile(PathBuf),
    /// Not only its owner may use it.
    #[error("read the tokens in {path}: others may use it (mode {mode:03o}); chmod 600 it")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Over [`FILE_BYTES_MAX`].
    #[error("read the tokens in {0}: it is over {FILE_BYTES_MAX} bytes; is it a file of tokens?")]
    TooLong(PathBuf),
    /// No token at all: nobody could do anything.
    #[error("read the tokens in {0}: there is none; write one on a line, or do not set the file")]
    Empty(PathBuf),
    /// A line that is no token.
    #[error("read the tokens in {path}: line {line} {reason}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it, and never what it says.
        reason: String,
    },
}

/// The hashes of the tokens in the file at `path`.
pub(super) fn read(path: &Path) -> Result<Vec<blake3::Hash>, TokenError> {
    let tokens = tokens(path)?;
    Ok(tokens.iter().map(|token| blake3::hash(token.as_bytes())).collect())
}

/// The first of the tokens in the file at `path`.
pub(super) fn first(path: &Path) -> Result<String, TokenError> {
    let first = tokens(path)?.into_iter().next();
    first.ok_or_else(|| TokenError::Empty(path.to_owned()))
}

fn tokens(path: &Path) -> Result<Vec<String>, TokenError> {
    let text = text(path)?;
    let mut tokens = Vec::new();
    for (at, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let token = line.strip_suffix(b"\r").unwrap_or(line);
        if token.trim_ascii().is_empty() || token.starts_with(b"#") {
            continue;
        }
        let faulty = |reason| TokenError::Line { path: path.to_owned(), line: at + 1, reason };
        check(token).map_err(faulty)?;
        if tokens.len() == TOKENS_MAX {
            return Err(faulty(format!("is one token too many; at most {TOKENS_MAX} are allowed")));
        }
        tokens.push(String::from_utf8_lossy(token).into_owned());
    }
    match tokens.is_empty() {
        true => Err(TokenError::Empty(path.to_owned())),
        false => Ok(tokens),
    }
}

/// What is wrong with a token, if something is.
fn check(token: &[u8]) -> Result<(), String> {
    if let Some(at) = token.iter().position(|byte| !byte.is_ascii_graphic()) {
        return Err(format!(
            "has something at column {} that is no printable ASCII character; \
             a token has no spaces, and no comment follows it",
            at + 1
        ));
    }
    match token.len() {
        TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX => Ok(()),
        length => Err(format!(
            "has {length} characters; a token has {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX}"
        )),
    }
}

fn text(path: &Path) -> Result<Vec<u8>, TokenError> {
    let failed = |source| TokenError::Io { path: path.to_owned(), source };
    // a pipe that nobody writes to must not hold the start up
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file: File =
        OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    // asked of what was opened, so that nobody exchanges it in between
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(TokenError::NotAFile(path.to_owned()));
    }
    if meta.mode() & OTHERS != 0 {
        return Err(TokenError::Exposed { path: path.to_owned(), mode: meta.mode() & 0o777 });
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(TokenError::TooLong(path.to_owned())),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::tokens::{Right, TokenSettings, Tokens};

    fn write(text: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn refused(text: &[u8]) -> String {
        let (_dir, path) = write(text, 0o600);
        read(&path).unwrap_err().to_string()
    }

    #[test]
    fn blank_lines_and_comments_are_no_tokens_and_every_other_line_is_one() {
        let text = b"# the old one\n0123456789abcdef\n\n   \r\n# the new one\r\n~!@$%^&*()_+0123\r\nlast-0123456789abc";
        let (_dir, path) = write(text, 0o400);
        let hashes = read(&path).unwrap();
        let tokens = ["0123456789abcdef", "~!@$%^&*()_+0123", "last-0123456789abc"];
        assert_eq!(hashes, tokens.map(|token| blake3::hash(token.as_bytes())));
        let settings = TokenSettings { write_file: Some(path), ..TokenSettings::default() };
        let tokens = Tokens::load(&settings).unwrap();
        assert!(!tokens.is_open(Right::Write) && tokens.is_open(Right::Read));
    }

    #[test]
    fn a_line_that_is_no_token_is_named_and_not_quoted() {
        for (text, line, why) in [
            (&b"0123456789abcdef\nshort-secret\n"[..], "line 2", "12 characters"),
            (b"0123456789 secret", "line 1", "column 11"),
            (b" 0123456789secret", "line 1", "column 1 "),
            (b"0123456789secret ", "line 1", "column 17"),
            (b"0123456789secret\t# old", "line 1", "column 17"),
            (b"#\n#\n0123456789secret\xc3\xa9", "line 3", "column 17"),
            (b"0123456789secret\0", "line 1", "column 17"),
            (&b"s".repeat(TOKEN_BYTES_MAX + 1), "line 1", "513 characters"),
        ] {
            let said = refused(text);
            assert!(said.contains(line) && said.contains(why), "{said}");
            assert!(!said.contains("secret") && !said.contains("sss"), "{said}");
        }
        let longest = "l".repeat(TOKEN_BYTES_MAX);
        let most: Vec<String> =
            (0..TOKENS_MAX).map(|n| format!("{n:02}{}", &longest[2..])).collect();
        let (_dir, path) = write(most.join("\n").as_bytes(), 0o600);
        assert_eq!(read(&path).unwrap().len(), TOKENS_MAX);
        let said = refused(format!("{}\n0123456789secret", most.join("\n")).as_bytes());
        assert!(said.contains("line 65 is one token too many"), "{said}");
    }

    #[test]
    fn a_file_without_a_token_is_refused_and_not_taken_for_no_file() {
        for text in [&b""[..], b"\n\n", b"# nothing here\n"] {
            assert!(refused(text).contains("there is none"));
        }
        assert!(refused(&vec![b'#'; 65 << 10]).contains("is it a file of tokens"));
        let settings =
            TokenSettings { read_file: Some("/no/such/file".into()), ..Default::default() };
        let said = Tokens::load(&settings).unwrap_err().to_string();
        assert!(said.contains("/no/such/file"), "{said}");
        let settings = TokenSettings { manage_file: Some("/".into()), ..Default::default() };
        assert!(matches!(Tokens::load(&settings), Err(TokenError::NotAFile(_))));
    }

    #[test]
    fn a_file_that_others_may_use_is_refused() {
        for mode in [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644] {
            let (_dir, path) = write(b"0123456789abcdef", mode);
            let said = read(&path).unwrap_err().to_string();
            assert!(said.contains(&format!("mode {mode:o}")), "{said}");
        }
    }

    #[test]
    fn a_pipe_does_not_hold_the_start_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert!(matches!(read(&path), Err(TokenError::NotAFile(_))));
    }
}
