//! A TCP proxy on loopback that can take a link's broker away, wholly or in part: cut, forget, slow down, garble,
//! keep confirms back.
//!
//! Never here: AMQP, beyond where the broker's frames end and which of them are confirms. Threads rather than tasks:
//! they end with their sockets, and a busy test runtime does not slow them down.

#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// How many bytes pass at a time while it is slow, and how long it waits after them: 3.2 kB/s.
const SLOW_BYTES: usize = 16;
const SLOW_PAUSE: Duration = Duration::from_millis(5);

/// Dropping it cuts its connections.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    open: Mutex<Vec<Arc<Passage>>>,
    silent: AtomicBool,
    /// New connections are closed at once.
    refusing: AtomicBool,
    /// While true, bytes pass at a crawl; the condition is told when that ends.
    slow: Mutex<bool>,
    fast: Condvar,
    /// What has passed while slow.
    slow_bytes: AtomicU64,
}

/// One connection through the proxy.
struct Passage {
    near: TcpStream,
    far: TcpStream,
    /// Nothing passes any more, not even its end.
    forgotten: AtomicBool,
    /// The broker's confirms do not pass.
    unconfirmed: AtomicBool,
    withheld: AtomicU64,
    /// Told when the far side has ended.
    far_ended: Mutex<Option<mpsc::Sender<()>>>,
}

impl Proxy {
    /// Listens on a port of its own and passes everything on to `target`, until the process ends.
    pub fn start(target: (String, u16)) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            for near in listener.incoming() {
                if theirs.refusing.load(Ordering::Relaxed) {
                    continue;
                }
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(target.clone())) else {
                    continue;
                };
                let passage = Passage {
                    near,
                    far,
                    forgotten: AtomicBool::new(false),
                    unconfirmed: AtomicBool::new(false),
                    withheld: AtomicU64::new(0),
                    far_ended: Mutex::new(None),
                };
                let passage = Arc::new(passage);
                theirs.open.lock().expect("no panic under the lock").push(Arc::clone(&passage));
                let (there, back) = (Arc::clone(&theirs), Arc::clone(&theirs));
                let other = Arc::clone(&passage);
                thread::spawn(move || there.pass(&passage, &passage.near, &passage.far, None));
                thread::spawn(move || back.pass(&other, &other.far, &other.near, Some(Frames::default())));
            }
        });
        Self { address, shared }
    }

    /// From now on nothing gets through, and no connection ends: a broker that hangs, a network that swallows.
    pub fn fall_silent(&self) {
        self.shared.silent.store(true, Ordering::Relaxed);
    }

    /// Takes the broker away: every connection is cut, and new ones are closed at once.
    pub fn refuse(&self) {
        self.shared.refusing.store(true, Ordering::Relaxed);
        self.cut();
    }

    /// Gives it back.
    pub fn admit(&self) {
        self.shared.refusing.store(false, Ordering::Relaxed);
    }

    /// Drops every connection that is open now; the next ones are passed on again.
    pub fn cut(&self) {
        for passage in self.shared.open.lock().expect("no panic under the lock").drain(..) {
            passage.shut();
        }
    }

    /// Ends what the broker says on every connection that is open now; what is said to it still passes, until either side
    /// makes an end.
    pub fn half_close(&self) {
        for passage in self.shared.open.lock().expect("no panic under the lock").drain(..) {
            // one that has ended by itself is closed on both sides
            let _ = passage.near.shutdown(Shutdown::Write);
        }
    }

    /// Forgets every connection that is open now, as a router does that was restarted: neither side hears of the
    /// other again, nor of its end. The next ones are passed on. What it returns waits until the broker has given all
    /// of them up, at most for `patience`: until then it keeps their consumers, and what it has delivered to them.
    pub fn forget(&self) -> impl FnOnce(Duration) + use<> {
        let (ended, told) = mpsc::channel();
        let mut forgotten = 0;
        for passage in self.shared.open.lock().expect("no panic under the lock").drain(..) {
            *passage.far_ended.lock().expect("no panic under the lock") = Some(ended.clone());
            passage.forgotten.store(true, Ordering::SeqCst);
            forgotten += 1;
        }
        move |patience| (0..forgotten).for_each(|_| told.recv_timeout(patience).expect("the broker gives a silent connection up"))
    }

    /// Keeps the broker's confirms back on every connection that is open now, heartbeats and all else pass. What it
    /// returns counts them.
    pub fn keep_confirms_back(&self) -> impl Fn() -> u64 + use<> {
        let passages: Vec<_> = self.shared.open.lock().expect("no panic under the lock").clone();
        passages.iter().for_each(|passage| passage.unconfirmed.store(true, Ordering::SeqCst));
        move || passages.iter().map(|passage| passage.withheld.load(Ordering::SeqCst)).sum()
    }

    /// Writes `bytes` in between what the broker says on every connection that is open now.
    pub fn garble_answers(&self, bytes: &[u8]) {
        for passage in self.shared.open.lock().expect("no panic under the lock").iter() {
            // one that has ended by itself needs no garbage
            let _ = (&passage.near).write_all(bytes);
        }
    }

    /// The same towards the broker.
    pub fn garble_requests(&self, bytes: &[u8]) {
        for passage in self.shared.open.lock().expect("no panic under the lock").iter() {
            let _ = (&passage.far).write_all(bytes);
        }
    }

    /// Everything passes, a few bytes at a time.
    pub fn slow_down(&self) {
        *self.shared.slow.lock().expect("no panic under the lock") = true;
    }

    /// At full speed again. Returns how many bytes have passed slowly so far.
    pub fn speed_up(&self) -> u64 {
        *self.shared.slow.lock().expect("no panic under the lock") = false;
        self.shared.fast.notify_all();
        self.shared.slow_bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Passage {
    fn shut(&self) {
        for stream in [&self.near, &self.far] {
            // One that has ended by itself is as good as cut.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn pass(&self, passage: &Passage, mut from: &TcpStream, mut to: &TcpStream, mut frames: Option<Frames>) {
        let mut buffer = [0; 16 * 1024];
        // Either side's end, in whatever way, ends both.
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if self.silent.load(Ordering::Relaxed) || passage.forgotten.load(Ordering::SeqCst) {
                continue;
            }
            let written = match &mut frames {
                None => self.write(&mut to, &buffer[..length]),
                Some(frames) => {
                    let whole = frames.whole(&buffer[..length], |frame| {
                        let withhold = passage.unconfirmed.load(Ordering::SeqCst) && is_confirm(frame);
                        passage.withheld.fetch_add(u64::from(withhold), Ordering::SeqCst);
                        !withhold
                    });
                    self.write(&mut to, &whole)
                }
            };
            if written.is_err() {
                break;
            }
        }
        self.open.lock().expect("no panic under the lock").retain(|open| !std::ptr::eq(&**open, passage));
        if !passage.forgotten.load(Ordering::SeqCst) {
            passage.shut();
        } else if frames.is_some()
            && let Some(told) = &*passage.far_ended.lock().expect("no panic under the lock")
        {
            // nobody may be waiting
            let _ = told.send(());
        }
    }

    fn write(&self, to: &mut &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let slow = self.slow.lock().expect("no panic under the lock");
            let (now, rest) = bytes.split_at(if *slow { SLOW_BYTES.min(bytes.len()) } else { bytes.len() });
            if *slow {
                self.slow_bytes.fetch_add(now.len() as u64, Ordering::SeqCst);
                let (guard, _) = self.fast.wait_timeout(slow, SLOW_PAUSE).expect("no panic under the lock");
                drop(guard);
            } else {
                drop(slow);
            }
            to.write_all(now)?;
            bytes = rest;
        }
        Ok(())
    }
}

/// Cuts a stream of bytes at the ends of AMQP frames: type, channel (2), size (4), payload, end.
#[derive(Default)]
struct Frames {
    rest: Vec<u8>,
}

impl Frames {
    const AROUND: usize = 8;

    /// The frames that are complete with `more`, without those that `passes` refuses.
    fn whole(&mut self, more: &[u8], passes: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        self.rest.extend_from_slice(more);
        let (mut whole, mut at) = (Vec::new(), 0);
        while let Some(size) = self.rest.get(at + 3..at + 7) {
            let length = Self::AROUND + u32::from_be_bytes(size.try_into().expect("four bytes")) as usize;
            let Some(frame) = self.rest.get(at..at + length) else { break };
            if passes(frame) {
                whole.extend_from_slice(frame);
            }
            at += length;
        }
        self.rest.drain(..at);
        whole
    }
}

/// A `basic.ack` or `basic.nack` of the broker.
fn is_confirm(frame: &[u8]) -> bool {
    frame[0] == 1 && matches!(frame[7..11], [0, 60, 0, 80 | 120])
}
