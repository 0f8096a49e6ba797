//! RFC 6455 over a raw socket, case by case. Each names the section that it is
//! about; what a server may choose, the case says.

use tokio::net::TcpStream;

use crate::server::{Engine, Server};
use crate::socket::{
    ACCEPT, BINARY, CLOSE, CONTINUATION, Frame, KEY, PING, PONG, Socket, TEXT, frame, mask, masked,
    whole,
};

/// What must come of what a client sends.
#[derive(Clone, Debug)]
enum Then {
    /// A close frame with one of these codes, and the end of the connection.
    Closed(&'static [u16]),
    /// A pong with this payload; the connection goes on.
    Pong(Vec<u8>),
    /// These pongs, in order; the connection goes on.
    Pongs(Vec<Vec<u8>>),
    /// An answer of this type to the text; the connection goes on.
    Said(&'static str),
    /// Nothing; the connection goes on.
    GoesOn,
}
use Then::{Closed, GoesOn, Pongs, Said};

struct Case {
    section: &'static str,
    name: String,
    sends: Vec<Vec<u8>>,
    then: Then,
}

fn case(section: &'static str, name: impl Into<String>, sends: Vec<Vec<u8>>, then: Then) -> Case {
    Case { section, name: name.into(), sends, then }
}

/// One frame with a length in a form of the case's own.
fn lengthened(first: u8, form: u8, length: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | form];
    bytes.extend_from_slice(length);
    bytes.extend_from_slice(&mask());
    bytes.extend(masked(payload));
    bytes
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason);
    whole(CLOSE, &payload)
}

const PROTOCOL: &[u16] = &[1002];
const NOT_UTF8: &[u16] = &[1007];
const TOO_BIG: &[u16] = &[1009];

/// Section 5.2: the parts of a frame.
fn framing() -> Vec<Case> {
    let mut cases = Vec::new();
    for bits in 1..8_u8 {
        let first = 0x80 | bits << 4 | TEXT;
        let name = format!("reserved bits {bits:03b} on a text, no extension negotiated");
        cases.push(case("5.2", name, vec![frame(first, b"ping")], Closed(PROTOCOL)));
    }
    for bits in [1_u8, 2, 4] {
        let first = 0x80 | bits << 4 | PING;
        let name = format!("reserved bits {bits:03b} on a ping");
        cases.push(case("5.2", name, vec![frame(first, b"")], Closed(PROTOCOL)));
    }
    for opcode in (3..8).chain(11..16) {
        let name = format!("reserved opcode {opcode}");
        cases.push(case("5.2", name.clone(), vec![whole(opcode, b"")], Closed(PROTOCOL)));
        cases.push(case("5.2", name + ", payload", vec![whole(opcode, b"x")], Closed(PROTOCOL)));
    }
    let padded = |bytes: usize| {
        let mut text = b"ping".to_vec();
        text.resize(bytes, b' ');
        text
    };
    for bytes in [4, 125, 126, 127, 128, 65_535, 65_536] {
        let name = format!("a text of {bytes} bytes, the shortest form of its length");
        cases.push(case("5.2", name, vec![whole(TEXT, &padded(bytes))], Said("pong")));
    }
    cases.push(case(
        "5.2",
        "a length of 2^63: the highest bit must be 0",
        vec![lengthened(0x81, 127, &(1_u64 << 63).to_be_bytes(), b"")],
        Closed(&[1002, 1009]),
    ));
    cases.push(case(
        "10.4",
        "a frame larger than the server takes, by its header alone",
        vec![lengthened(0x81, 127, &65_537_u64.to_be_bytes(), b"")],
        Closed(TOO_BIG),
    ));
    cases.push(case(
        "10.4",
        "a frame of 2^40 bytes, by its header alone",
        vec![lengthened(0x81, 127, &(1_u64 << 40).to_be_bytes(), b"")],
        Closed(TOO_BIG),
    ));
    cases.push(case(
        "10.4",
        "a message of fragments that is too large, though no frame is",
        vec![frame(TEXT, &padded(40_000)), frame(0x80 | CONTINUATION, &padded(40_000))],
        Closed(TOO_BIG),
    ));
    cases.push(case(
        "5.2",
        "frames that come byte by byte",
        whole(TEXT, b"ping").into_iter().map(|byte| vec![byte]).collect(),
        Said("pong"),
    ));
    cases.push(case(
        "5.2",
        "two frames in one segment",
        vec![[whole(PING, b"a"), whole(PING, b"b")].concat()],
        Pongs(vec![b"a".to_vec(), b"b".to_vec()]),
    ));
    cases
}

/// Sections 5.1 and 5.3: masking.
fn masking() -> Vec<Case> {
    let unmasked = |first: u8, payload: &[u8]| {
        let mut bytes = vec![first, u8::try_from(payload.len()).unwrap()];
        bytes.extend_from_slice(payload);
        bytes
    };
    let mut cases: Vec<Case> =
        [(TEXT, "text"), (BINARY, "binary"), (PING, "ping"), (PONG, "pong"), (CLOSE, "close")]
            .into_iter()
            .map(|(opcode, name)| {
                case(
                    "5.1",
                    format!("a {name} that is not masked"),
                    vec![unmasked(0x80 | opcode, b"")],
                    Closed(PROTOCOL),
                )
            })
            .collect();
    cases.push(case(
        "5.1",
        "a text that is not masked, with a payload",
        vec![unmasked(0x81, b"ping")],
        Closed(PROTOCOL),
    ));
    let zero = [&[0x81, 0x84, 0, 0, 0, 0][..], b"ping"].concat();
    cases.push(case("5.3", "a mask of zeros", vec![zero], Said("pong")));
    let ones: Vec<u8> = b"ping".iter().map(|byte| byte ^ 0xff).collect();
    let ones = [&[0x81, 0x84, 0xff, 0xff, 0xff, 0xff][..], &ones].concat();
    cases.push(case("5.3", "a mask of ones", vec![ones], Said("pong")));
    cases
}

/// Section 5.4: fragments.
fn fragmentation() -> Vec<Case> {
    let first = |text: &[u8]| frame(TEXT, text);
    let more = |text: &[u8]| frame(CONTINUATION, text);
    let last = |text: &[u8]| frame(0x80 | CONTINUATION, text);
    vec![
        case("5.4", "a text in two fragments", vec![first(b"pi"), last(b"ng")], Said("pong")),
        case("5.4", "in three", vec![first(b"p"), more(b"in"), last(b"g")], Said("pong")),
        case(
            "5.4",
            "in four, one a byte",
            vec![first(b"p"), more(b"i"), more(b"n"), last(b"g")],
            Said("pong"),
        ),
        case("5.4", "an empty first fragment", vec![first(b""), last(b"ping")], Said("pong")),
        case("5.4", "an empty last fragment", vec![first(b"ping"), last(b"")], Said("pong")),
        case(
            "5.4",
            "an empty fragment between",
            vec![first(b"pi"), more(b""), last(b"ng")],
            Said("pong"),
        ),
        case("5.4", "all fragments empty", vec![first(b""), more(b""), last(b"")], Said("error")),
        case(
            "5.4",
            "a ping between fragments is answered first",
            vec![first(b"pi"), whole(PING, b"x")],
            Pongs(vec![b"x".to_vec()]),
        ),
        case(
            "5.4",
            "a text goes on after a ping between its fragments",
            vec![first(b"pi"), whole(PONG, b""), last(b"ng")],
            Said("pong"),
        ),
        case(
            "5.4",
            "a close between fragments",
            vec![first(b"pi"), close(1000, b"")],
            Closed(&[1000]),
        ),
        case("5.4", "a continuation of nothing", vec![last(b"ping")], Closed(PROTOCOL)),
        case(
            "5.4",
            "a continuation of nothing that goes on",
            vec![more(b"ping")],
            Closed(PROTOCOL),
        ),
        case(
            "5.4",
            "a continuation after a whole text",
            vec![whole(TEXT, b"ping"), last(b"x")],
            Closed(PROTOCOL),
        ),
        case(
            "5.4",
            "a text within a text",
            vec![first(b"pi"), whole(TEXT, b"ping")],
            Closed(PROTOCOL),
        ),
        case(
            "5.4",
            "a first fragment within a text",
            vec![first(b"pi"), first(b"pi")],
            Closed(PROTOCOL),
        ),
        case(
            "5.4",
            "a binary message within a text",
            vec![first(b"pi"), whole(BINARY, b"x")],
            Closed(PROTOCOL),
        ),
        case(
            "5.4",
            "two texts of fragments, one after the other",
            vec![first(b"pi"), last(b"ng"), first(b"{}"), last(b"")],
            Said("pong"),
        ),
        case(
            "5.4",
            "a binary message of fragments, which is not read here",
            vec![frame(BINARY, b"x"), last(b"y")],
            Closed(&[1003]),
        ),
    ]
}

/// Section 5.5: control frames.
fn control() -> Vec<Case> {
    let mut cases = Vec::new();
    for bytes in [0_usize, 1, 4, 124, 125] {
        let payload = vec![b'p'; bytes];
        let name = format!("a ping of {bytes} bytes gets its payload back");
        cases.push(case("5.5.3", name, vec![whole(PING, &payload)], Then::Pong(payload)));
    }
    cases.push(case(
        "5.5.3",
        "a ping's payload need not be UTF-8",
        vec![whole(PING, &[0xff, 0xfe, 0x00])],
        Then::Pong(vec![0xff, 0xfe, 0x00]),
    ));
    cases.push(case(
        "5.5.3",
        "ten pings get ten pongs, in order",
        (0..10).map(|nth| whole(PING, &[nth])).collect(),
        Pongs((0..10).map(|nth| vec![nth]).collect()),
    ));
    for (opcode, name) in [(PING, "ping"), (PONG, "pong"), (CLOSE, "close")] {
        let long = vec![0; 126];
        cases.push(case(
            "5.5",
            format!("a {name} of 126 bytes"),
            vec![whole(opcode, &long)],
            Closed(PROTOCOL),
        ));
        cases.push(case(
            "5.5",
            format!("a {name} whose length has 64 bits"),
            vec![whole(opcode, &vec![0; 65_536])],
            Closed(&[1002, 1009]),
        ));
        cases.push(case(
            "5.5",
            format!("a {name} that is a fragment"),
            vec![frame(opcode, b"")],
            Closed(PROTOCOL),
        ));
    }
    cases.push(case("5.5.3", "a pong that nobody asked for", vec![whole(PONG, b"x")], GoesOn));
    cases.push(case("5.5.3", "an empty pong", vec![whole(PONG, b"")], GoesOn));
    cases.push(case(
        "5.5.2",
        "a ping after a pong",
        vec![whole(PONG, b"x"), whole(PING, b"y")],
        Then::Pong(b"y".to_vec()),
    ));
    cases
}

/// Sections 5.5.1 and 7.4: closing.
fn closing() -> Vec<Case> {
    let mut cases = vec![
        case("5.5.1", "a close without a code is answered", vec![whole(CLOSE, b"")], Closed(&[])),
        case("5.5.1", "a close of one byte", vec![whole(CLOSE, &[3])], Closed(PROTOCOL)),
        case("5.5.1", "a close with a reason", vec![close(1000, b"bye")], Closed(&[1000])),
        case(
            "5.5.1",
            "a close with the longest reason",
            vec![close(1000, &[b'x'; 123])],
            Closed(&[1000]),
        ),
        case(
            "5.5.1",
            "a reason of two-byte characters",
            vec![close(1000, "é".as_bytes())],
            Closed(&[1000]),
        ),
        case(
            "7.1.6",
            "a reason that is not UTF-8",
            vec![close(1000, &[0xff])],
            Closed(&[1007, 1002]),
        ),
        case(
            "7.1.6",
            "a reason that breaks off in a character",
            vec![close(1000, &[0xc3])],
            Closed(&[1007, 1002]),
        ),
        case(
            "5.5.1",
            "what comes after a close is not read",
            vec![close(1000, b""), whole(TEXT, b"ping")],
            Closed(&[1000]),
        ),
        case("5.5.1", "a second close", vec![close(1000, b""), close(1000, b"")], Closed(&[1000])),
        case(
            "5.5.1",
            "a ping after a close",
            vec![close(1000, b""), whole(PING, b"")],
            Closed(&[1000]),
        ),
    ];
    for code in [1000_u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011] {
        let name = format!("the code {code} is answered with itself");
        let codes: &'static [u16] = vec![code].leak();
        cases.push(case("7.4.1", name, vec![close(code, b"")], Closed(codes)));
    }
    for code in [3000_u16, 3999, 4000, 4999] {
        let name = format!("the registered or private code {code}");
        let codes: &'static [u16] = vec![code].leak();
        cases.push(case("7.4.2", name, vec![close(code, b"")], Closed(codes)));
    }
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        let name = format!("the code {code}, which must not be sent");
        let section = if matches!(code, 1004..=1015) { "7.4.1" } else { "7.4.2" };
        cases.push(case(section, name, vec![close(code, b"")], Closed(PROTOCOL)));
    }
    cases
}

/// Section 8.1: texts are UTF-8.
fn utf8() -> Vec<Case> {
    let mut cases = Vec::new();
    for (text, name) in [
        ("é", "two bytes"),
        ("漢", "three bytes"),
        ("\u{10ffff}", "the last character"),
        ("\u{0}", "U+0000"),
        ("\u{fffe}", "U+FFFE"),
        ("\u{d7ff}\u{e000}", "both sides of the surrogates"),
        ("𝄞𝄞", "four bytes"),
    ] {
        let sends = vec![whole(TEXT, text.as_bytes())];
        // It is no action, which is the answer of the layer above.
        cases.push(case("8.1", format!("well-formed: {name}"), sends, Said("error")));
    }
    let wrong: [(&[u8], &str); 14] = [
        (&[0x80], "a continuation byte alone"),
        (&[0xbf], "the last continuation byte alone"),
        (&[0xc3], "two bytes that break off"),
        (&[0xe6, 0xbc], "three bytes that break off"),
        (&[0xf0, 0x9d, 0x84], "four bytes that break off"),
        (&[0xc0, 0x80], "an overlong U+0000"),
        (&[0xc1, 0xbf], "an overlong U+007F"),
        (&[0xe0, 0x80, 0xaf], "an overlong solidus in three bytes"),
        (&[0xf0, 0x80, 0x80, 0xaf], "an overlong solidus in four bytes"),
        (&[0xed, 0xa0, 0x80], "the first surrogate"),
        (&[0xed, 0xbf, 0xbf], "the last surrogate"),
        (&[0xf4, 0x90, 0x80, 0x80], "above U+10FFFF"),
        (&[0xf8, 0x88, 0x80, 0x80, 0x80], "five bytes"),
        (&[0xfe], "0xFE"),
    ];
    for (bytes, name) in wrong {
        let text = [b"ping", bytes].concat();
        let name = format!("not UTF-8: {name}");
        cases.push(case("8.1", name, vec![whole(TEXT, &text)], Closed(NOT_UTF8)));
    }
    cases.push(case(
        "8.1",
        "a character in two fragments",
        vec![frame(TEXT, &[0xc3]), frame(0x80 | CONTINUATION, &[0xa9])],
        Said("error"),
    ));
    cases.push(case(
        "8.1",
        "a character in four fragments",
        vec![
            frame(TEXT, &[0xf0]),
            frame(CONTINUATION, &[0x9d]),
            frame(CONTINUATION, &[0x84]),
            frame(0x80 | CONTINUATION, &[0x9e]),
        ],
        Said("error"),
    ));
    cases.push(case(
        "8.1",
        "a fragment that makes a character wrong",
        vec![frame(TEXT, &[0xc3]), frame(0x80 | CONTINUATION, &[0x28])],
        Closed(NOT_UTF8),
    ));
    cases.push(case(
        "8.1",
        "a character that breaks off in the last fragment",
        vec![frame(TEXT, b"ping"), frame(0x80 | CONTINUATION, &[0xc3])],
        Closed(NOT_UTF8),
    ));
    cases.push(case(
        "5.6",
        "a binary message, which is not read here",
        vec![whole(BINARY, &[0xff])],
        Closed(&[1003]),
    ));
    cases
}

async fn faults(server: &Server, case: &Case) -> Vec<String> {
    let mut socket = Socket::open(server, "/ws/events/filtered").await;
    for bytes in &case.sends {
        socket.send(bytes).await;
    }
    let mut faults = Vec::new();
    let mut expect = |what: &str, holds: bool, found: &Option<Frame>| {
        if !holds {
            faults.push(format!("{} {}: {what}, found {found:?}", case.section, case.name));
        }
    };
    let goes_on = match &case.then {
        Closed(codes) => {
            let mut found = socket.frame().await;
            // One case sends a good text first, which is answered.
            if case.sends[0] == whole(TEXT, b"ping") && case.sends.len() > 1 {
                found = socket.frame().await;
            }
            let is_close = found.as_ref().is_some_and(|frame| {
                frame.first == 0x80 | CLOSE
                    && match (codes, frame.code()) {
                        ([], code) => code.is_none(),
                        (codes, Some(code)) => codes.contains(&code),
                        _ => false,
                    }
            });
            expect(&format!("a close with {codes:?}"), is_close, &found);
            // Section 7.1.1: the server ends the connection first.
            let rest = socket.frame().await;
            expect("the end of the connection", rest.is_none(), &rest);
            false
        }
        Then::Pong(payload) => {
            let found = socket.frame().await;
            let wanted = Frame { first: 0x80 | PONG, payload: payload.clone() };
            expect("the pong", found.as_ref() == Some(&wanted), &found);
            true
        }
        Pongs(payloads) => {
            for payload in payloads {
                let found = socket.frame().await;
                let wanted = Frame { first: 0x80 | PONG, payload: payload.clone() };
                expect("a pong", found.as_ref() == Some(&wanted), &found);
            }
            // One case leaves a text unfinished.
            case.sends.first().is_none_or(|bytes| bytes[0] != TEXT)
        }
        Said(kind) => {
            let found = socket.frame().await;
            let said = found
                .as_ref()
                .filter(|frame| frame.first == 0x80 | TEXT)
                .is_some_and(|frame| frame.json()["type"] == **kind);
            expect(&format!("the answer {kind}"), said, &found);
            case.name != "two texts of fragments, one after the other" || {
                let second = socket.frame().await;
                let said = second.as_ref().is_some_and(|frame| frame.json()["type"] == "error");
                expect("a second answer", said, &second);
                true
            }
        }
        GoesOn => true,
    };
    if goes_on {
        socket.send(&whole(PING, b"still there")).await;
        let found = socket.frame().await;
        let wanted = Frame { first: 0x80 | PONG, payload: b"still there".to_vec() };
        expect("that it goes on", found.as_ref() == Some(&wanted), &found);
    }
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_fragments_texts_and_closes_are_as_rfc_6455_wants_them() {
    let server = Server::start(Engine::Sqlite).await;
    let cases: Vec<Case> = [framing(), masking(), fragmentation(), control(), closing(), utf8()]
        .into_iter()
        .flatten()
        .collect();
    assert!(cases.len() >= 130, "there are {}", cases.len());
    let mut found = Vec::new();
    for case in &cases {
        found.extend(faults(&server, case).await);
    }
    assert!(found.is_empty(), "{} of {}:\n{}", found.len(), cases.len(), found.join("\n"));
}

/// Section 4.2: what a handshake must have, and how it is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_is_as_rfc_6455_wants_it() {
    let server = Server::start(Engine::Sqlite).await;
    let key = format!("X-API-Key: {}\r\n", server.key);
    let good = Socket::handshake("/ws/events", &key);
    let without = |line: &str| good.replace(line, "");
    let with = |line: &str, other: &str| {
        assert!(good.contains(line), "{line}");
        good.replace(line, other)
    };
    let key_line = format!("Sec-WebSocket-Key: {KEY}\r\n");
    for (section, name, head, status) in [
        ("4.2.1", "as it should be", good.clone(), 101),
        (
            "4.2.1",
            "names of headers in other cases",
            with("Upgrade: websocket", "uPGRADE: WebSocket"),
            101,
        ),
        (
            "4.2.1",
            "Connection with several tokens",
            with("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
            101,
        ),
        (
            "9.1",
            "an extension is offered and not taken",
            with("\r\nUpgrade", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\nUpgrade"),
            101,
        ),
        ("4.2.1", "a method other than GET", with("GET ", "POST "), 405),
        ("4.2.1", "no Upgrade", without("Upgrade: websocket\r\n"), 426),
        ("4.2.1", "another Upgrade", with("websocket\r\n", "h2c\r\n"), 426),
        ("4.2.1", "no Connection: Upgrade", without("Connection: Upgrade\r\n"), 426),
        ("4.2.1", "no key", without(&key_line), 426),
        ("4.2.1", "a key that is no base64", with(KEY, "not base64 at all!"), 426),
        ("4.2.1", "a key of 15 bytes", with(KEY, "AAAAAAAAAAAAAAAAAAAA"), 426),
        ("4.2.1", "two keys", with(&key_line, &format!("{key_line}{key_line}")), 426),
        ("4.4", "no version", without("Sec-WebSocket-Version: 13\r\n"), 426),
        ("4.4", "version 8", with("Version: 13", "Version: 8"), 426),
        (
            "10.2",
            "a page from elsewhere",
            with("\r\nUpgrade", "\r\nOrigin: https://evil.example\r\nUpgrade"),
            403,
        ),
        (
            "10.2",
            "a page of our own",
            with("\r\nUpgrade", "\r\nOrigin: http://localhost\r\nUpgrade"),
            101,
        ),
        ("10.5", "no key of the API", without(&key), 401),
    ] {
        let (_socket, answer) = Socket::request(&server.url, &head).await;
        assert_eq!(answer.status, status, "{section} {name}: {}", answer.head);
        if status == 101 {
            assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT), "4.2.2 {name}");
            assert_eq!(answer.header("upgrade"), Some("websocket"), "4.2.2 {name}");
            assert_eq!(answer.header("sec-websocket-extensions"), None, "9.1 {name}");
            assert_eq!(answer.header("sec-websocket-protocol"), None, "4.2.2 {name}");
        }
        if status == 426 {
            assert_eq!(answer.header("sec-websocket-version"), Some("13"), "4.4 {name}");
        }
    }
    let protocols =
        format!("Sec-WebSocket-Protocol: other, agentry.events, agentry.key.{}\r\n", server.key);
    let head = Socket::handshake("/ws/events", &protocols);
    let (_socket, answer) = Socket::request(&server.url, &head).await;
    assert_eq!(answer.status, 101, "1.9: {}", answer.head);
    assert_eq!(answer.header("sec-websocket-protocol"), Some("agentry.events"), "4.2.2");
}

/// Section 4.1 lets a client send frames only after the answer; one that does not
/// wait is served all the same, and nothing of what it sent is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_with_the_handshake_is_read() {
    use tokio::io::AsyncWriteExt as _;

    let server = Server::start(Engine::Sqlite).await;
    let head = Socket::handshake("/ws/events/filtered", &format!("X-API-Key: {}\r\n", server.key));
    let bytes = [head.into_bytes(), whole(TEXT, b"ping")].concat();
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let (mut socket, answer) = Socket::of(stream).await;
    assert_eq!(answer.status, 101);
    assert_eq!(socket.json().await["type"], "ready");
    assert_eq!(socket.json().await["type"], "pong");
}
