//! The stream on which a server says what nobody asked for (MCP 2025-11-25, "Listening for
//! Messages from the Server"), such as that its tools changed. Not every server has one:
//! without it a catalogue is read anew when it is old.

use std::sync::Arc;
use std::time::Duration;

use agentry_domain::Result;
use agentry_outbound::Reply;
use futures::StreamExt as _;
use http::{HeaderValue, StatusCode, header};
use rmcp::model::{ServerJsonRpcMessage, ServerNotification, ToolListChangedNotification};
use tokio::time::Instant;

use super::{RETRY_MAX, Sent, Shared, endless};
use crate::sse::EventData;
use crate::stdio::UNASKED_MAX;

/// How long one stream is listened to at most; then another one is asked for.
const LISTEN_FOR: Duration = Duration::from_secs(3_600);
/// The first wait before it is asked for again; it doubles while nothing is said.
const AGAIN_FIRST: Duration = Duration::from_millis(500);
/// In this time no more than [`UNASKED_MAX`] messages may come.
const UNASKED_WITHIN: Duration = Duration::from_secs(60);

impl Shared {
    /// Listens until the connection ends, or the server has nothing of the kind.
    pub(super) async fn listen(self: Arc<Self>) {
        let stopping = self.tasks.stopping().clone();
        tokio::select! {
            () = self.link.closing() => {}
            () = stopping.cancelled() => {}
            () = self.listen_on() => {}
        }
    }

    async fn listen_on(&self) {
        let mut events = EventData::default();
        let (mut wait, mut was_open) = (AGAIN_FIRST, false);
        loop {
            let last = events.last_id().and_then(|id| HeaderValue::from_str(id).ok());
            let goes_on = last.is_some();
            let deadline = Instant::now() + LISTEN_FOR;
            match self.send_one(&Sent::Listen(last), deadline).await {
                Ok(reply) if is_stream(&reply) => {
                    events.begin_again();
                    // What was said while nobody listened is lost, unless the server keeps it.
                    let has_missed = was_open && !goes_on;
                    was_open = true;
                    match self.hear(reply, &mut events, has_missed).await {
                        Ok(0) => {}
                        Ok(_) => wait = AGAIN_FIRST,
                        Err(error) => return self.link.fail(&error),
                    }
                }
                // The next call finds out what is the matter with the session.
                Ok(reply) if reply.status().is_client_error() || !was_open => return,
                Ok(_) | Err(_) => {}
            }
            tokio::time::sleep(events.retry().unwrap_or(wait).clamp(AGAIN_FIRST, RETRY_MAX)).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// Reads a stream until it ends: how many messages came.
    async fn hear(&self, reply: Reply, events: &mut EventData, has_missed: bool) -> Result<u32> {
        if has_missed {
            self.take(tools_changed(), false, None).await?;
        }
        let (mut heard, mut within, mut since) = (0, 0, Instant::now());
        let mut chunks = reply.chunks();
        while let Some(Ok(piece)) = chunks.next().await {
            for message in self.messages(&piece, events)? {
                self.take(message, false, None).await?;
                heard += 1;
                if since.elapsed() > UNASKED_WITHIN {
                    (within, since) = (0, Instant::now());
                }
                within += 1;
                if within > UNASKED_MAX {
                    return Err(endless());
                }
            }
        }
        Ok(heard)
    }
}

fn is_stream(reply: &Reply) -> bool {
    let media_type = reply.headers().get(header::CONTENT_TYPE);
    let media_type = media_type.and_then(|it| it.to_str().ok()).unwrap_or_default();
    reply.status() == StatusCode::OK && media_type.starts_with("text/event-stream")
}

fn tools_changed() -> ServerJsonRpcMessage {
    let changed = ToolListChangedNotification::default();
    ServerJsonRpcMessage::notification(ServerNotification::ToolListChangedNotification(changed))
}
