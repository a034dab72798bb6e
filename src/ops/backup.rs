//! A backup of the running service: its store as of one moment, streamed as lines while the service goes on.
//!
//! ```text
//! snapshot ─▶ lines (blocking thread) ─▶ a few pieces ─▶ the connection
//! ```
//! Never here: a piece kept for a reader who does not take it. A backup that makes no progress ends, since the store
//! puts its own writing off for it. Nor an answer to a browser: a page that somebody looks at could ask for one.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CONTENT_TYPE, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::port::{Longer, Of};
use super::watched::Unclear;
use crate::store::Store;
use crate::store::transfer::{Totals, TransferError};

/// Begins a backup: the moment is now.
pub type Begin = Arc<dyn Fn() -> Result<Writing, TransferError> + Send + Sync>;
/// Writes it down.
pub type Writing = Box<dyn FnOnce(&mut dyn Write) -> Result<Totals, TransferError> + Send>;

/// Lines go out in pieces of about this size, of which so many may wait.
const PIECE_BYTES: usize = 256 * 1024;
const PIECES: usize = 4;
/// A reader that takes nothing for this long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which partition's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    partition: Option<u16>,
}

pub(super) async fn answer<S: Store>(
    State(shared): Of<S>,
    Extension(longer): Extension<Longer>,
    headers: HeaderMap,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Response {
    let refuse = |status: StatusCode, why: &str| (status, format!("{why}\n")).into_response();
    if headers.contains_key(ORIGIN) {
        return refuse(StatusCode::FORBIDDEN, "not for a browser: remedyd store backup --url …");
    }
    let asked = match query {
        Ok(Query(Parameters { partition })) => partition,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let (_, Some(watched)) = shared.standing() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the service is starting: the store is being read");
    };
    drop(shared);
    let (number, begin) = match watched.partition(asked) {
        Ok(partition) => (partition.number, Arc::clone(&partition.backup)),
        Err(unclear @ Unclear::NotNamed { .. }) => return refuse(StatusCode::BAD_REQUEST, &unclear.to_string()),
        Err(unclear @ Unclear::NotServed { .. }) => return refuse(StatusCode::NOT_FOUND, &unclear.to_string()),
    };
    drop(watched);
    let writing = match tokio::task::spawn_blocking(move || begin()).await {
        Ok(Ok(writing)) => writing,
        Ok(Err(TransferError::Busy)) => return refuse(StatusCode::CONFLICT, &TransferError::Busy.to_string()),
        Ok(Err(error)) => {
            tracing::error!(partition = number, error = %chain(&error), "a backup could not be begun");
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the store could not be read; the log says more");
        }
        Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    let (pieces, taken) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { pieces, piece: Vec::with_capacity(PIECE_BYTES), runtime };
        tracing::info!(partition = number, "a backup has begun");
        match writing(&mut out) {
            Ok(totals) => tracing::info!(partition = number, rows = totals.rows, archived = totals.archived, "a backup has been taken"),
            Err(error) => {
                tracing::warn!(partition = number, error = %chain(&error), "a backup has not come to its end");
                // an error in the middle of the body ends the connection, so that nobody takes this for all of it
                let _ = out.send(Err(io::Error::other(error.to_string())));
            }
        }
    });
    let may_last = Arc::clone(&longer.0).lock_owned().await;
    let body = stream::unfold((taken, may_last), |(mut taken, may_last)| async move {
        let piece = taken.recv().await?;
        Some((piece, (taken, may_last)))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}

fn chain(error: &TransferError) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// Where the lines go; blocks while the reader is slow.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
    runtime: tokio::runtime::Handle,
}

impl Pieces {
    fn send(&self, piece: io::Result<Bytes>) -> io::Result<()> {
        let sent = self.runtime.block_on(self.pieces.send_timeout(piece, PATIENCE));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes the backup"))
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.send(Ok(Bytes::from(piece)))
    }
}
