//! What systemd is told of the service (`sd_notify`): that it has started, how it stands, that it lives, that it stops.
//!
//! ```text
//! READY=1      the store has been read and the pipeline runs; the broker may still be away
//! STATUS=…     where the connection to the broker stands, for `systemctl status`
//! WATCHDOG=1   three times in each WatchdogSec, as long as /livez would say ok
//! STOPPING=1   a signal has come
//! ```
//!
//! Never here: the broker as a reason to withhold any of it, a failure to tell as a reason to stop, or a wait for systemd.

use std::ffi::OsStr;
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;
use std::{io, thread};

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::broker::LinkState;

/// Beats in the time after which systemd ends a service that is silent: one may be late and one lost.
const BEATS: u32 = 3;
/// Faster than this helps nobody.
const SHORTEST_BEAT: Duration = Duration::from_millis(10);

/// Words that may wait to be said. A manager that does not listen must not hold up the service: what is beyond is dropped.
const WAITING: usize = 16;

/// A service manager that listens. Dropping it ends the beats.
pub struct Supervisor {
    task: JoinHandle<()>,
    words: SyncSender<String>,
}

impl Supervisor {
    /// Whether this process was started by one that wants to be told.
    pub fn listens() -> bool {
        is_address(std::env::var_os("NOTIFY_SOCKET").as_deref())
    }

    /// Says that the service has started, and from then on how it stands and that it lives. Must be called within a tokio
    /// runtime, when the pipelines run. `ailments` says what only a restart can mend.
    pub fn started(ailments: impl Fn() -> Vec<String> + Send + Sync + 'static, link: watch::Receiver<LinkState>) -> io::Result<Self> {
        let (words, said) = mpsc::sync_channel(WAITING);
        // a thread of its own, which nobody waits for: a word blocks while the manager's socket is full
        thread::Builder::new().name("systemd".into()).spawn(move || said.into_iter().for_each(|words: String| say(&words)))?;
        let beat = sd_notify::watchdog_enabled().map(between_beats);
        let to_say = words.clone();
        let task = tokio::spawn(attend(ailments, link, beat, move |states| tell(&to_say, states)));
        Ok(Self { task, words })
    }

    /// Says that it stops. No beat follows: a stop is shorter than the time that a watchdog is given.
    pub fn stopping(&self) {
        self.task.abort();
        tell(&self.words, &[NotifyState::Stopping, NotifyState::Status("stopping: taking no more, finishing what is under way")]);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn is_address(socket: Option<&OsStr>) -> bool {
    socket.is_some_and(|socket| !socket.is_empty())
}

fn between_beats(watchdog: Duration) -> Duration {
    (watchdog / BEATS).max(SHORTEST_BEAT)
}

/// Has it said, soon or never.
fn tell(words: &SyncSender<String>, states: &[NotifyState<'_>]) {
    let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
    if words.try_send(lines.join("\n")).is_err() {
        tracing::debug!("systemd does not listen");
    }
}

fn say(words: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::Custom(words)]) {
        tracing::warn!(error = %error, "systemd could not be told");
    }
}

/// Until it is aborted. `ailments` says what only a restart can mend.
async fn attend(
    ailments: impl Fn() -> Vec<String>,
    mut link: watch::Receiver<LinkState>,
    beat: Option<Duration>,
    tell: impl Fn(&[NotifyState<'_>]),
) {
    let status = standing(&link.borrow_and_update());
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    let mut every = beat.map(tokio::time::interval);
    let mut was_well = true;
    loop {
        let beats = async {
            match &mut every {
                Some(every) => every.tick().await,
                None => std::future::pending().await,
            };
        };
        tokio::select! {
            () = beats => {
                let why = ailments();
                if why.is_empty() {
                    tell(&[NotifyState::Watchdog]);
                } else if was_well {
                    tracing::error!(why = why.join("; "), "no heartbeat for systemd: it will end this process");
                }
                was_well = why.is_empty();
            }
            changed = link.changed() => {
                if changed.is_err() {
                    return;
                }
                let status = standing(&link.borrow_and_update());
                tell(&[NotifyState::Status(&status)]);
            }
        }
    }
}

/// One line, whatever the broker says: what follows a line's end would be another message.
fn standing(link: &LinkState) -> String {
    match link {
        LinkState::Connecting => "connecting to the broker".to_owned(),
        LinkState::Ready { .. } => "ready".to_owned(),
        LinkState::Blocked { reason, .. } => format!("the broker blocks publishing ({})", reason.escape_debug()),
        LinkState::Closed => "the connection to the broker is closed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::{Arc, Mutex};

    /// What has been told, one line each.
    type Told = Arc<Mutex<Vec<String>>>;

    fn noted(told: &Told) -> impl Fn(&[NotifyState<'_>]) + use<> {
        let told = Arc::clone(told);
        move |states| told.lock().unwrap().extend(states.iter().map(ToString::to_string))
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_beats_as_long_as_it_is_well_and_none_after() {
        let (told, well) = (Told::default(), Arc::new(AtomicBool::new(true)));
        let (link_in, link) = watch::channel(LinkState::Connecting);
        let ailments = {
            let well = Arc::clone(&well);
            move || if well.load(Relaxed) { Vec::new() } else { vec!["engine: no heartbeat for 31 s".to_owned()] }
        };
        let task = tokio::spawn(attend(ailments, link, Some(between_beats(Duration::from_secs(30))), noted(&told)));
        let taken = || std::mem::take(&mut *told.lock().unwrap());
        let second = Duration::from_secs(1);

        tokio::time::advance(second).await;
        tokio::task::yield_now().await;
        assert_eq!(taken(), ["READY=1", "STATUS=connecting to the broker", "WATCHDOG=1"]);
        for _ in 0..3 {
            tokio::time::advance(10 * second).await;
            tokio::task::yield_now().await;
            assert_eq!(taken(), ["WATCHDOG=1"], "one every 10 s");
        }
        link_in.send_replace(LinkState::Blocked { epoch: 1, reason: "low on\nWATCHDOG=1".into() });
        tokio::task::yield_now().await;
        assert_eq!(taken(), ["STATUS=the broker blocks publishing (low on\\nWATCHDOG=1)"]);

        well.store(false, Relaxed);
        for _ in 0..5 {
            tokio::time::advance(10 * second).await;
            tokio::task::yield_now().await;
            assert_eq!(taken(), Vec::<String>::new(), "a beat of what does not live");
        }
        well.store(true, Relaxed);
        tokio::time::advance(10 * second).await;
        tokio::task::yield_now().await;
        assert_eq!(taken(), ["WATCHDOG=1"]);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watchdog_there_are_no_beats() {
        let told = Told::default();
        let (_link_in, link) = watch::channel(LinkState::Ready { epoch: 1 });
        let task = tokio::spawn(attend(Vec::new, link, None, noted(&told)));
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(3_600)).await;
        tokio::task::yield_now().await;
        assert_eq!(*told.lock().unwrap(), ["READY=1", "STATUS=ready"]);
        task.abort();
    }

    #[test]
    fn a_third_and_never_nothing() {
        assert_eq!(between_beats(Duration::from_secs(30)), Duration::from_secs(10));
        assert_eq!(between_beats(Duration::ZERO), SHORTEST_BEAT);
        assert!(!is_address(None) && !is_address(Some(OsStr::new(""))) && is_address(Some(OsStr::new("/run/systemd/notify"))));
    }
}
