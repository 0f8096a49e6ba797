//! Files of a session's workspace: what they are called and what is known of
//! them. Their content is in the store, in chunks.

use unicode_normalization::is_nfc;

use crate::error::{Error, Fault, Result};
use crate::ids::{FileId, SessionId};
use crate::time::Timestamp;

/// Bytes of a chunk of a file's content; the last one may be shorter.
pub const FILE_CHUNK_BYTES: usize = 256 * 1_024;
/// Bytes of a path at most.
pub const FILE_PATH_BYTES_MAX: usize = 1_024;
/// Bytes of a name between two slashes at most, as on most disks.
pub const FILE_NAME_BYTES_MAX: usize = 255;
/// Characters of a media type at most.
pub const MEDIA_TYPE_CHARS_MAX: usize = 255;
/// The media type of a file that was given none.
pub const MEDIA_TYPE_DEFAULT: &str = "application/octet-stream";

/// The path of a file within its workspace: names with slashes between them,
/// none of which leads anywhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(String);

impl FilePath {
    /// Takes a path that stays within its workspace; otherwise
    /// `validation_failed`, with the fault `not_a_path`. One text means one file:
    /// what Unicode can write in two ways must be in its composed form (NFC).
    pub fn parse(text: &str) -> Result<Self> {
        match refusal(text) {
            None => Ok(Self(text.to_owned())),
            Some(why) => Err(Error::invalid(vec![Fault::new("path", "not_a_path", why)])),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn refusal(text: &str) -> Option<String> {
    if text.len() > FILE_PATH_BYTES_MAX {
        return Some(format!("must have {FILE_PATH_BYTES_MAX} bytes at most"));
    }
    if text.contains('\\') || text.chars().any(char::is_control) {
        return Some("must not contain backslashes or control characters".to_owned());
    }
    if is_encoded(text) {
        return Some("must not be percent-encoded twice".to_owned());
    }
    if !is_nfc(text) {
        return Some("must be in Unicode's composed form (NFC)".to_owned());
    }
    text.split('/').find_map(|name| match name {
        "" => Some("must not have empty names or begin with a slash".to_owned()),
        "." | ".." => Some(format!("must not have the name {name}")),
        name if name.len() > FILE_NAME_BYTES_MAX => {
            Some(format!("must have names of {FILE_NAME_BYTES_MAX} bytes at most"))
        }
        _ => None,
    })
}

/// Whether something that decodes once more would read another path.
fn is_encoded(text: &str) -> bool {
    text.as_bytes()
        .windows(3)
        .any(|it| it[0] == b'%' && it[1].is_ascii_hexdigit() && it[2].is_ascii_hexdigit())
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its id, which stays when its content is replaced.
    pub id: FileId,
    /// Where it is.
    pub session: SessionId,
    /// Its path.
    pub path: String,
    /// Its media type, as it was sent.
    pub media_type: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Names its chunks; another one with each content.
    pub content: [u8; 16],
    /// Grows with each content, also after the file was deleted and put anew:
    /// its time in microseconds.
    pub version: i64,
    /// When it was first put.
    pub created_at: Timestamp,
    /// When its content was put.
    pub updated_at: Timestamp,
}

/// How much files may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimits {
    /// Bytes of one file at most.
    pub file_bytes_max: u64,
    /// Bytes of a session's files together at most.
    pub session_bytes_max: u64,
    /// Files of a session at most.
    pub session_files_max: u32,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self {
            file_bytes_max: 16 * 1_024 * 1_024,
            session_bytes_max: 256 * 1_024 * 1_024,
            session_files_max: 1_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_in_its_workspace() {
        let long = "x".repeat(FILE_NAME_BYTES_MAX + 1);
        let deep = "x/".repeat(FILE_PATH_BYTES_MAX / 2) + "x";
        for (path, taken) in [
            ("a", true),
            ("notes/2026/plan v2.txt", true),
            (".env", true),
            ("a..b/...", true),
            ("100% done", true),
            ("caf\u{e9}", true),
            ("cafe\u{301}", false),
            ("", false),
            ("/etc/passwd", false),
            ("a//b", false),
            ("a/", false),
            (".", false),
            ("..", false),
            ("a/../b", false),
            ("a/./b", false),
            ("a\\..\\b", false),
            ("a\0", false),
            ("a\nb", false),
            ("\u{7f}", false),
            ("%2e%2e/b", false),
            ("a%2Fb", false),
            (&long, false),
            (&deep, false),
        ] {
            assert_eq!(FilePath::parse(path).is_ok(), taken, "{path:?}");
        }
    }
}
