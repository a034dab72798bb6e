//! One connection to the broker: opened under a time-out, and always closed in the end.
//!
//! Never here: retries, channels' work. lapin's automatic recovery stays off: a connection that failed is
//! dropped as a whole, and the supervisor makes another.
//!
//! lapin runs each connection on a thread of its own, which ends only with its socket: dropping a connect that
//! is taking too long, or a close that cannot be written because the broker blocks, would leave thread and
//! socket behind, one for every attempt. So a second handle on the socket is kept here, and shutting that down
//! is the last word.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, ConnectionProperties};
use tokio::time::timeout;

use super::settings::{Endpoint, TimeOuts, Tls};

/// Why a connection, or something asked on it, failed.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    #[error("{doing}: no answer within {seconds} s")]
    TimedOut { doing: String, seconds: u64 },
    #[error("{doing}")]
    Failed {
        doing: String,
        #[source]
        source: lapin::Error,
    },
    /// A promise of the protocol or of the client library was not kept.
    #[error("{0}")]
    Broken(String),
    #[error("the topology at the broker is not ours: {}", .0.join("; "))]
    Topology(Vec<String>),
    #[error("rights at the broker are lacking: {}", .0.join("; "))]
    Rights(Vec<String>),
}

impl AmqpError {
    /// The whole chain on one line.
    pub fn chain(&self) -> String {
        match self {
            Self::Failed { doing, source } => format!("{doing}: {source}"),
            Self::TimedOut { .. } | Self::Broken(_) | Self::Topology(_) | Self::Rights(_) => self.to_string(),
        }
    }

    /// Whether TLS has failed: a certificate, ours or the broker's, or something that does not speak it.
    pub fn is_tls(&self) -> bool {
        match self {
            Self::Topology(_) | Self::Rights(_) | Self::TimedOut { .. } | Self::Broken(_) => false,
            Self::Failed { source, .. } => match source.kind() {
                // what the TLS library gives for whatever it does not accept
                lapin::ErrorKind::IOError(error) => error.kind() == std::io::ErrorKind::InvalidData,
                _ => false,
            },
        }
    }

    /// Whether somebody has to change a configuration, ours or the broker's, before this goes away: a name that
    /// is not there, a right that is lacking, other arguments.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Topology(_) | Self::Rights(_) => true,
            Self::TimedOut { .. } | Self::Broken(_) => false,
            Self::Failed { source, .. } => match source.kind() {
                lapin::ErrorKind::ProtocolError(error) => {
                    matches!(error.get_id(), 402..=406 | 503 | 530 | 540)
                }
                _ => false,
            },
        }
    }
}

/// What is said where TLS 1.3 lets a broker refuse a client only after the handshake: by an alert, or by a socket that
/// is reset before the alert is read.
const CERTIFICATE_HINT: &str = "a broker that wants a certificate of ours, or another one, ends it like this: amqp.tls_cert_file";

fn ends_like_a_refusal(error: &lapin::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, UnexpectedEof};
    match error.kind() {
        lapin::ErrorKind::IOError(error) => match error.kind() {
            ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof => true,
            InvalidData => error.to_string().contains("fatal alert"),
            _ => false,
        },
        _ => false,
    }
}

/// Waits for `asked` under the time-out for calls, and says what it was if it fails.
pub async fn call<T>(
    doing: impl Into<String>,
    time_outs: &TimeOuts,
    asked: impl Future<Output = lapin::Result<T>>,
) -> Result<T, AmqpError> {
    match timeout(time_outs.call, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(AmqpError::Failed { doing: doing.into(), source }),
        Err(_) => Err(AmqpError::TimedOut { doing: doing.into(), seconds: time_outs.call.as_secs() }),
    }
}

/// An open connection. Dropping it cuts the socket.
pub struct Connection {
    /// Those that are to last as long as the connection, see [`Connection::lasting_channel`].
    lasting: Mutex<Vec<Channel>>,
    lapin: lapin::Connection,
    _socket: Socket,
    time_outs: TimeOuts,
}

impl Connection {
    /// Connects; `name` is what the broker's operator will see.
    pub async fn open(endpoint: &Endpoint, name: &str, tls: &Tls, time_outs: TimeOuts) -> Result<Self, AmqpError> {
        let doing = format!("connecting to {endpoint}");
        let failed = |source| match endpoint.uri().scheme {
            AMQPScheme::AMQPS if ends_like_a_refusal(&source) => {
                AmqpError::Failed { doing: format!("{doing} ({CERTIFICATE_HINT})"), source }
            }
            AMQPScheme::AMQPS | AMQPScheme::AMQP => AmqpError::Failed { doing: doing.clone(), source },
        };
        let runtime = lapin::runtime::default_runtime().map_err(failed)?;
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let socket = Socket(Arc::new(Mutex::new(Handle::Dialling)));
        let (handle, tls) = (socket.0.clone(), tls.config());
        // Written in place: its parameters' types are known only from here.
        let opening = lapin::Connection::connector(
            endpoint.uri().clone(),
            runtime,
            async move |uri: AMQPUri, runtime| {
                let host = uri.authority.host.as_str();
                let dialled = timeout(time_outs.connect, async {
                    let addresses = tokio::net::lookup_host((host, uri.authority.port)).await?;
                    let addresses: Vec<_> = addresses.collect();
                    let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                    if let AsyncTcpStream::Plain(plain) = &stream {
                        Socket::keep(&handle, plain.get_ref())?;
                    }
                    match uri.scheme {
                        AMQPScheme::AMQP => Ok(stream),
                        AMQPScheme::AMQPS => stream.into_tls(host, tls.as_ref()).await,
                    }
                });
                let dialled = dialled.await.unwrap_or_else(|_| {
                    let kind = std::io::ErrorKind::TimedOut;
                    Err(std::io::Error::new(kind, "no connection in time"))
                });
                dialled.map_err(lapin::Error::from)
            },
            properties,
        );
        match timeout(time_outs.connect, opening).await {
            Ok(Ok(lapin)) => Ok(Self { lasting: Mutex::default(), lapin, _socket: socket, time_outs }),
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => Err(AmqpError::TimedOut { doing, seconds: time_outs.connect.as_secs() }),
        }
    }

    pub fn lapin(&self) -> &lapin::Connection {
        &self.lapin
    }

    pub fn time_outs(&self) -> &TimeOuts {
        &self.time_outs
    }

    pub async fn channel(&self) -> Result<Channel, AmqpError> {
        call("opening a channel", &self.time_outs, self.lapin.create_channel()).await
    }

    /// A channel that is closed with the connection and not before. lapin closes a channel when its last clone is
    /// dropped, and if the connection is closing by then, it takes that for an error: it would drop what is still
    /// to be written, acks included, and log an ERROR at every orderly end.
    pub async fn lasting_channel(&self) -> Result<Channel, AmqpError> {
        let channel = self.channel().await?;
        self.lasting.lock().unwrap_or_else(PoisonError::into_inner).push(channel.clone());
        Ok(channel)
    }

    /// Closes in order, if the broker answers in time, and in any case.
    pub async fn close(self) {
        if self.lapin.status().connected() {
            let closing = self.lapin.close(200, "closing".into());
            match timeout(self.time_outs.close, closing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "closed without the broker's consent"),
                Err(_) => tracing::debug!("closed without the broker's answer"),
            }
        }
    }
}

/// The second handle on a connection's socket. Dropping it cuts the connection, also one still being made.
struct Socket(Arc<Mutex<Handle>>);

enum Handle {
    Dialling,
    Open(TcpStream),
    Cut,
}

impl Socket {
    fn keep(handle: &Mutex<Handle>, stream: &impl AsFd) -> std::io::Result<()> {
        let copy = stream.as_fd().try_clone_to_owned()?;
        let mut handle = handle.lock().unwrap_or_else(PoisonError::into_inner);
        match *handle {
            Handle::Dialling => {
                *handle = Handle::Open(copy.into());
                Ok(())
            }
            Handle::Open(_) | Handle::Cut => Err(std::io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut handle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Handle::Open(stream) = std::mem::replace(&mut *handle, Handle::Cut) {
            // Fails only if the other side was first.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
