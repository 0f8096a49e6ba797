//! A server over a process's standard input and output: one JSON-RPC message per
//! line (MCP 2025-11-25, "Transports, stdio").

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::background::Tasks;
use agentry_domain::{Code, Error, Result};
use rmcp::RoleClient;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::Mutex;

use crate::connection::Link;
use crate::process::{Process, Program};

/// How long a message may wait for a server to read it.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// Lines without a message that are passed over, in a row: some programs greet.
const GARBAGE_LINES_MAX: u32 = 100;
/// Messages that answer nothing, in a row.
pub(crate) const UNASKED_MAX: u32 = 2_000;

/// Starts a program, and a task that owns its process: it ends with the link.
pub(crate) fn start(
    program: &Program,
    bytes_max: usize,
    tasks: &Tasks,
) -> Result<(Stdio, Arc<Link>)> {
    let (process, pipes) = Process::start(program)?;
    let complaint = process.complaint();
    let link = Arc::new(Link::new(Some(complaint.clone())));
    let input = Arc::new(Mutex::new(Some(pipes.input)));
    let owned = Arc::clone(&link);
    let (stopping, ours) = (tasks.stopping().clone(), Arc::clone(&input));
    tasks.spawn(async move {
        let listening = complaint.listen(pipes.complaints);
        tokio::select! {
            () = owned.closing() => {}
            () = stopping.cancelled() => owned.close(),
            // What a process leaves behind may keep its standard error.
            () = async { listening.await; std::future::pending().await } => {}
        }
        // The end of its input tells it to go.
        let taken = tokio::time::timeout(WRITE_WITHIN, ours.lock()).await;
        drop(taken.map(|mut input| input.take()));
        process.end().await;
        owned.ended();
    });
    let output = BufReader::new(pipes.output);
    let transport = Stdio {
        input,
        output,
        line: Vec::new(),
        bytes_max,
        garbage: 0,
        unasked: 0,
        link: Arc::clone(&link),
    };
    Ok((transport, link))
}

/// The transport.
pub(crate) struct Stdio {
    input: Arc<Mutex<Option<ChildStdin>>>,
    output: BufReader<ChildStdout>,
    /// What was read of a line.
    line: Vec<u8>,
    bytes_max: usize,
    garbage: u32,
    unasked: u32,
    link: Arc<Link>,
}

impl Transport<RoleClient> for Stdio {
    type Error = Error;

    fn send(
        &mut self,
        item: ClientJsonRpcMessage,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let (input, link) = (Arc::clone(&self.input), Arc::clone(&self.link));
        async move {
            let mut line = serde_json::to_vec(&item).map_err(Error::internal)?;
            line.push(b'\n');
            let written = tokio::time::timeout(WRITE_WITHIN, async {
                let mut input = input.lock().await;
                let input = input.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
                input.write_all(&line).await?;
                input.flush().await
            });
            let error = match written.await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(_)) => Error::new(Code::McpUnreachable, link.gone()),
                // Half a line may be in the pipe, so that nothing can follow it.
                Err(_) => Error::new(Code::McpTimeout, "the MCP server does not read its input"),
            };
            link.fail(&error);
            Err(error)
        }
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        loop {
            if !self.read_line().await {
                self.link.fail(&Error::new(Code::McpUnreachable, self.link.gone()));
                return None;
            }
            let line = std::mem::take(&mut self.line);
            let Ok(message) = serde_json::from_slice(&line) else {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                self.garbage += 1;
                if self.garbage > GARBAGE_LINES_MAX {
                    self.bad("the MCP server writes what is no message");
                    return None;
                }
                continue;
            };
            self.garbage = 0;
            self.unasked = match message {
                ServerJsonRpcMessage::Response(_) | ServerJsonRpcMessage::Error(_) => 0,
                _ => self.unasked + 1,
            };
            if self.unasked > UNASKED_MAX {
                self.bad("the MCP server sends without end what nobody asked for");
                return None;
            }
            return Some(message);
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.link.close();
        Ok(())
    }
}

impl Stdio {
    /// Reads on to the end of a line; `false` when there is none. May be dropped and
    /// called again.
    async fn read_line(&mut self) -> bool {
        loop {
            let Ok(piece) = self.output.fill_buf().await else { return false };
            if piece.is_empty() {
                return false;
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(piece.len());
            self.line.extend_from_slice(&piece[..taken]);
            self.output.consume(taken + usize::from(end.is_some()));
            if self.line.len() > self.bytes_max {
                let detail = format!("the MCP server sent more than {} bytes", self.bytes_max);
                self.bad(&detail);
                return false;
            }
            if end.is_some() {
                return true;
            }
        }
    }

    fn bad(&self, detail: &str) {
        self.link.fail(&Error::new(Code::McpBadResponse, detail.to_owned()));
    }
}
