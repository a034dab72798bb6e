//! What an [`AmqpLink`](super::AmqpLink) is told: where the broker is, and every bound.
//!
//! Never here: a password in anything that can be printed, or a connection that would carry one in the clear
//! over a network.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};

use crate::broker::Lane;
use crate::broker::topology::{Topology, TopologyError};

/// Seconds between heartbeats, asked of the broker; twice this without a byte is a lost connection.
pub const HEARTBEAT_SECONDS: u16 = 10;

/// Where the broker is, checked. Prints as its URI without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    uri: AMQPUri,
}

/// Why settings are refused. Never carries the URI, which has the password in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("the broker's address is not a valid amqp:// or amqps:// URI")]
    Uri,
    #[error("refusing to speak unencrypted AMQP to {host}, which is not this machine: use amqps://")]
    Plaintext { host: String },
    #[error("refusing the user 'guest' at {host}, which is not this machine: make a user of its own")]
    Guest { host: String },
    #[error("partition {partition}, but the topology has {partitions} (counted from 0)")]
    Partition { partition: u16, partitions: u16 },
    #[error("{0} must not be zero")]
    Zero(&'static str),
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

impl Endpoint {
    /// Reads `amqp://user:password@host:port/vhost` (`amqps` for TLS; `/%2f` is the default virtual host).
    pub fn parse(uri: &str) -> Result<Self, SettingsError> {
        // The parser's own message repeats the URI.
        let mut parsed: AMQPUri = uri.parse().map_err(|_| SettingsError::Uri)?;
        // It also takes every IPv6 address for "localhost", which would defeat the checks below.
        if let Some(address) = ipv6_host(uri)? {
            parsed.authority.host = address;
        }
        let host = parsed.authority.host.clone();
        if !is_loopback(&host) {
            if parsed.scheme == AMQPScheme::AMQP {
                return Err(SettingsError::Plaintext { host });
            }
            if parsed.authority.userinfo.username == "guest" {
                return Err(SettingsError::Guest { host });
            }
        }
        parsed.query.heartbeat = Some(HEARTBEAT_SECONDS);
        Ok(Self { uri: parsed })
    }

    /// Host and port.
    pub fn address(&self) -> (&str, u16) {
        (&self.uri.authority.host, self.uri.authority.port)
    }

    pub fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    /// The user that the broker will know this connection by; `None` where its certificate says that.
    pub(super) fn password_user(&self) -> Option<&str> {
        let external = self.uri.query.auth_mechanism.is_some_and(|mechanism| mechanism == lapin::uri::SASLMechanism::External);
        (!external).then_some(self.uri.authority.userinfo.username.as_str())
    }

    pub(super) fn uri(&self) -> &AMQPUri {
        &self.uri
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, query: _ } = &self.uri;
        let user = &authority.userinfo.username;
        let (host, port) = self.address();
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{user}@{open}{host}{close}:{port} vhost {vhost:?}")
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// The address in `amqp://user@[address]:port/…`, if there is one.
fn ipv6_host(uri: &str) -> Result<Option<String>, SettingsError> {
    let after_scheme = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let Some(bracketed) = host.strip_prefix('[') else {
        return Ok(None);
    };
    let (address, _port) = bracketed.split_once(']').ok_or(SettingsError::Uri)?;
    let address: IpAddr = address.parse().map_err(|_| SettingsError::Uri)?;
    Ok(Some(address.to_string()))
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        // The one name that resolvers are bound to keep on the machine (RFC 6761).
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// TLS beyond what the system trusts. PEM texts, not paths.
#[derive(Clone, Default)]
pub struct Tls {
    /// Certificates to trust besides the system's.
    pub ca_pem: Option<String>,
    /// Our certificate and its key, for a broker that asks for one.
    pub identity: Option<TlsIdentity>,
}

#[derive(Clone)]
pub struct TlsIdentity {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Tls {
    /// `identity`: our certificate and its key.
    pub fn new(ca_pem: Option<&str>, identity: Option<(&str, &str)>) -> Self {
        Self {
            ca_pem: ca_pem.map(str::to_owned),
            identity: identity.map(|(certificate, key)| TlsIdentity { certificate_pem: certificate.to_owned(), key_pem: key.to_owned() }),
        }
    }

    pub(super) fn config(&self) -> OwnedTLSConfig {
        OwnedTLSConfig {
            identity: self.identity.as_ref().map(|identity| OwnedIdentity::PKCS8 {
                pem: identity.certificate_pem.clone().into_bytes(),
                key: identity.key_pem.clone().into_bytes(),
            }),
            cert_chain: self.ca_pem.clone(),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("ca", &self.ca_pem.is_some()).field("identity", &self.identity.is_some()).finish()
    }
}

/// Unsettled deliveries a lane may have out, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefetch {
    pub reports: u16,
    pub surveys: u16,
}

impl Prefetch {
    pub fn of(self, lane: Lane) -> u16 {
        match lane {
            Lane::Reports => self.reports,
            Lane::Surveys => self.surveys,
        }
    }
}

impl Default for Prefetch {
    /// Two commits' worth of the largest batch (1,024) per lane, so that the next batch is at hand while one is
    /// being made durable. At 256 KiB, the largest legal message, it bounds a lane at 512 MiB; at the usual
    /// 400 B to 4 KiB at 8 MiB.
    fn default() -> Self {
        Self { reports: 2_000, surveys: 2_000 }
    }
}

/// What is done about the topology at each connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AtConnect {
    /// Nothing: a missing queue shows when consuming fails.
    Trust,
    /// Compares what is there; any difference is logged as an error and keeps the link from becoming ready.
    #[default]
    Check,
    /// Declares what is missing. For demonstrations and tests: a service need not have the right to.
    Apply,
}

/// How long each thing may take before the connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOuts {
    /// Name, TCP, TLS and AMQP handshake together.
    pub connect: Duration,
    /// One question to the broker and its answer; also one settlement written to the socket.
    pub call: Duration,
    /// From handing a message to the socket until its confirm; stands still while the broker blocks.
    pub confirm: Duration,
    /// Each half of an orderly close: the last confirms, and the broker's consent.
    pub close: Duration,
}

impl Default for TimeOuts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            call: Duration::from_secs(10),
            confirm: Duration::from_secs(30),
            close: Duration::from_secs(5),
        }
    }
}

/// All that an [`AmqpLink`](super::AmqpLink) needs to know.
#[derive(Debug, Clone)]
pub struct AmqpSettings {
    pub(super) endpoint: Endpoint,
    pub(super) topology: Topology,
    pub(super) partition: u16,
    pub prefetch: Prefetch,
    /// Messages published and not yet confirmed, at most.
    pub publish_window: usize,
    pub at_connect: AtConnect,
    pub time_outs: TimeOuts,
    pub tls: Tls,
    /// Seeds the jitter of the reconnect delays; give each process another one.
    pub jitter_seed: u64,
}

impl AmqpSettings {
    /// The defaults for `partition` (from 0) of `topology` at the broker `uri`.
    pub fn new(uri: &str, topology: Topology, partition: u16) -> Result<Self, SettingsError> {
        let partitions = topology.partitions();
        if partition >= partitions {
            return Err(SettingsError::Partition { partition, partitions });
        }
        Ok(Self {
            endpoint: Endpoint::parse(uri)?,
            topology,
            partition,
            prefetch: Prefetch::default(),
            // Throughput stops growing at about a thousand (design measurements: 14–25 k/s there, 1.2 k/s at
            // one), and the window is what a crash may publish twice.
            publish_window: 1_000,
            at_connect: AtConnect::default(),
            time_outs: TimeOuts::default(),
            tls: Tls::default(),
            jitter_seed: 0,
        })
    }

    pub(super) fn validate(&self) -> Result<(), SettingsError> {
        let bounds = [
            ("prefetch of reports", usize::from(self.prefetch.reports)),
            ("prefetch of surveys", usize::from(self.prefetch.surveys)),
            ("publish window", self.publish_window),
        ];
        match bounds.iter().find(|(_, bound)| *bound == 0) {
            Some((name, _)) => Err(SettingsError::Zero(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(uri: &str) -> Option<SettingsError> {
        Endpoint::parse(uri).err()
    }

    fn host(uri: &str) -> String {
        Endpoint::parse(uri).unwrap().address().0.to_owned()
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for uri in ["amqp://localhost/", "amqp://127.0.0.1:5673/%2f", "amqp://127.3.2.1/", "amqp://[::1]:5672/v"] {
            assert_eq!(refusal(uri), None, "{uri}");
        }
        for uri in ["amqp://u:p@broker.example/", "amqp://u:p@10.0.0.1/", "amqp://u:p@[2001:db8::1]/", "amqp://localhost.example/"] {
            assert!(matches!(refusal(uri), Some(SettingsError::Plaintext { .. })), "{uri}");
        }
        assert_eq!(refusal("amqps://u:p@broker.example/v"), None);
        assert_eq!(host("amqps://u:p@[2001:db8::1]:5671/v"), "2001:db8::1");
    }

    #[test]
    fn guest_stays_on_this_machine() {
        let refused = refusal("amqps://guest:guest@broker.example/");
        assert!(matches!(refused, Some(SettingsError::Guest { .. })));
        // Without a user the parser fills in guest.
        let refused = refusal("amqps://broker.example/");
        assert!(matches!(refused, Some(SettingsError::Guest { .. })));
    }

    #[test]
    fn the_password_is_never_printed() {
        let topology = Topology::new(1).unwrap();
        let settings = AmqpSettings::new("amqps://me:canary@broker.example/v", topology, 0).unwrap();
        let mut printed = format!("{settings:?} {} ", settings.endpoint);
        for broken in ["amqp:canary", "http://me:canary@localhost/", "amqp://me:canary@[::1/", "amqp://me:canary@host:port/"] {
            let refused = refusal(broken).unwrap();
            printed += &format!("{refused} {refused:?} ");
        }
        assert!(!printed.contains("canary"), "{printed}");
        assert!(printed.contains("broker.example"), "{printed}");
    }

    #[test]
    fn a_partition_beyond_the_topology_is_refused() {
        let topology = Topology::new(2).unwrap();
        let refused = AmqpSettings::new("amqp://localhost/", topology, 2).err();
        assert_eq!(refused, Some(SettingsError::Partition { partition: 2, partitions: 2 }));
    }
}
