//! What is recognised by its shape alone: handles, tags, URLs, mail addresses,
//! paths, versions and identifiers.

/// What something is by its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Url,
    Email,
    Handle,
    Tag,
    Path,
    Version,
    Identifier,
}

/// Endings of file names that make a word with a slash or a full stop a path.
const EXTENSIONS: &[&str] = &[
    "c", "cfg", "conf", "cpp", "css", "csv", "go", "h", "html", "ini", "java", "jpg", "js", "json",
    "jsx", "log", "md", "pdf", "png", "proto", "py", "rb", "rs", "sh", "sql", "svg", "toml", "ts",
    "tsx", "txt", "xml", "yaml", "yml",
];

/// Bytes of something that has a shape; what is longer is noise.
const SHAPE_BYTES_MAX: usize = 300;

/// What a run without white space is, and the part of it that is meant.
pub(crate) fn shape(core: &str) -> Option<(Shape, &str)> {
    if core.len() > SHAPE_BYTES_MAX || core.len() < 2 {
        return None;
    }
    // Most words are letters alone, and are told at once.
    if core.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    let core = core.strip_suffix("'s").or_else(|| core.strip_suffix("\u{2019}s")).unwrap_or(core);
    if is_url(core) {
        return Some((Shape::Url, core.trim_end_matches('/')));
    }
    let found = match core.as_bytes()[0] {
        b'@' => handle(&core[1..]).then_some(Shape::Handle),
        b'#' => tag(&core[1..]),
        _ if is_email(core) => Some(Shape::Email),
        _ if is_path(core) => Some(Shape::Path),
        _ if is_version(core) => Some(Shape::Version),
        _ if is_identifier(core) => Some(Shape::Identifier),
        _ => None,
    };
    found.map(|shape| (shape, core))
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let rest = rest.or_else(|| text.strip_prefix("www.").filter(|rest| rest.contains('.')));
    rest.is_some_and(|rest| rest.len() > 2)
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn handle(name: &str) -> bool {
    name.len() >= 2
        && name.bytes().all(|byte| is_word_byte(byte) || byte == b'.')
        && name.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn tag(name: &str) -> Option<Shape> {
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        // An issue's number.
        return Some(Shape::Identifier);
    }
    let is_tag = name.len() >= 2
        && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
        && name.chars().any(char::is_alphabetic);
    is_tag.then_some(Shape::Tag)
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let fits = |part: &str, extra: &[u8]| {
        !part.is_empty() && part.bytes().all(|byte| is_word_byte(byte) || extra.contains(&byte))
    };
    fits(local, b".+")
        && fits(domain, b".")
        && domain.rsplit_once('.').is_some_and(|(name, top)| !name.is_empty() && top.len() >= 2)
}

fn is_path(text: &str) -> bool {
    let fits = text.bytes().all(|byte| is_word_byte(byte) || b"./~:\\@+".contains(&byte));
    if !fits {
        return false;
    }
    let extension = text
        .rsplit_once('.')
        .filter(|(stem, _)| stem.bytes().any(|byte| byte.is_ascii_alphanumeric()))
        .is_some_and(|(_, ending)| EXTENSIONS.binary_search(&ending).is_ok());
    let slashes = text.bytes().filter(|byte| *byte == b'/').count();
    let rooted = ["/", "./", "../", "~/"].iter().any(|root| text.starts_with(root));
    let drive = text.as_bytes().get(1..3) == Some(b":\\");
    drive
        || (rooted && text.len() > 3 && text.bytes().any(|byte| byte.is_ascii_alphabetic()))
        || extension
        || slashes >= 2 && !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'/')
}

fn is_version(text: &str) -> bool {
    let (bare, prefixed) = match text.strip_prefix(['v', 'V']) {
        Some(bare) => (bare, true),
        None => (text, false),
    };
    let number = bare.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = number.split('.').collect();
    let numeric = parts.iter().all(|part| {
        !part.is_empty() && part.len() <= 5 && part.bytes().all(|byte| byte.is_ascii_digit())
    });
    numeric && (parts.len() == 3 || (prefixed && parts.len() <= 4))
}

fn is_identifier(text: &str) -> bool {
    if let Some(call) = text.strip_suffix("()").or_else(|| text.strip_suffix("(")) {
        return call.len() > 1
            && call.bytes().all(|byte| is_word_byte(byte) || b".:".contains(&byte));
    }
    let bytes = text.as_bytes();
    if !bytes.iter().all(|byte| is_word_byte(*byte) || *byte == b':' || *byte == b'.') {
        return false;
    }
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let joined =
        |at: usize| at > 0 && alphanumeric(bytes.get(at - 1)) && alphanumeric(bytes.get(at + 1));
    if (0..bytes.len()).any(|at| bytes[at] == b'_' && joined(at)) {
        return true;
    }
    if text.split("::").count() > 1 && text.split("::").all(|part| !part.is_empty()) {
        return true;
    }
    // ABC-123
    if let Some((project, number)) = text.split_once('-') {
        let is_key = (2..=10).contains(&project.len())
            && project.bytes().all(|byte| byte.is_ascii_uppercase())
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit());
        if is_key {
            return true;
        }
    }
    // getUserName, not iPhone or eBay
    let lowers = bytes.iter().take_while(|byte| byte.is_ascii_lowercase()).count();
    let camel = lowers >= 2
        && bytes.get(lowers).is_some_and(u8::is_ascii_uppercase)
        && bytes.get(lowers + 1).is_some_and(u8::is_ascii_lowercase)
        && bytes.iter().all(u8::is_ascii_alphanumeric);
    if camel {
        return true;
    }
    // A digest or a UUID.
    let hex = text.len() >= 7
        && bytes.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
        && bytes.iter().any(u8::is_ascii_digit)
        && bytes.iter().filter(|byte| byte.is_ascii_alphabetic()).count() >= 2;
    hex && !text.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_told_apart() {
        let check = |text: &str, expected: Option<Shape>| {
            assert_eq!(shape(text).map(|(shape, _)| shape), expected, "{text}");
        };
        check("https://example.org/a?b=1", Some(Shape::Url));
        check("www.example.org", Some(Shape::Url));
        check("ada@example.org", Some(Shape::Email));
        check("@ada_l", Some(Shape::Handle));
        check("#rustlang", Some(Shape::Tag));
        check("#42", Some(Shape::Identifier));
        check("src/main.rs", Some(Shape::Path));
        check("/etc/hosts", Some(Shape::Path));
        check("config.toml", Some(Shape::Path));
        check("v2.1", Some(Shape::Version));
        check("1.24.0-rc1", Some(Shape::Version));
        check("user_id", Some(Shape::Identifier));
        check("getUserName", Some(Shape::Identifier));
        check("std::io", Some(Shape::Identifier));
        check("OPS-311", Some(Shape::Identifier));
        check("9f86d081884c", Some(Shape::Identifier));
        for text in [
            "iPhone",
            "eBay",
            "2.5",
            "and/or",
            "McDonald",
            "well-known",
            "A",
            "24/7",
            "1990s",
            "e.g",
            "12-13",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn extensions_are_sorted() {
        assert!(EXTENSIONS.is_sorted());
    }
}
