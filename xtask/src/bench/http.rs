//! Just enough of an HTTP client to prepare a target: one request on one
//! connection, JSON in both directions, a `content-length` in the answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The body of an answer that ends with its connection or its length.
///
/// # Errors
/// When the server cannot be reached, or its status is not 2xx.
pub fn get(address: &str, path: &str, key: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    ensure!(head.contains(" 200 "), "GET {path} answered {head}");
    Ok(body.to_owned())
}

/// Sends a JSON body and gives the JSON answer.
///
/// # Errors
/// When the server cannot be reached, or its status is not 2xx, or its answer
/// is not JSON.
pub fn post(address: &str, path: &str, key: &str, body: &str) -> Result<Value> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nx-api-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )?;
    let mut answer = BufReader::new(stream);
    let mut status = String::new();
    answer.read_line(&mut status)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        answer.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
    let mut text = vec![0; length];
    answer.read_exact(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    ensure!(status.contains(" 20"), "POST {path} answered {} {text}", status.trim_end());
    serde_json::from_str(&text).with_context(|| format!("POST {path} answered {text}"))
}
