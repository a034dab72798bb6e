//! A TCP proxy on loopback that can cut its connections, so that a test can take a link's broker away.
//!
//! Never here: AMQP. It passes bytes on and knows nothing of them. Threads rather than tasks: they end with
//! their sockets, and a busy test runtime does not slow them down.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Dropping it cuts its connections.
pub struct Proxy {
    pub address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    silent: Arc<AtomicBool>,
}

impl Proxy {
    /// Listens on a port of its own and passes everything on to `target`, until the process ends.
    pub fn start(target: (String, u16)) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let open = Arc::new(Mutex::new(Vec::new()));
        let streams = open.clone();
        let silent = Arc::new(AtomicBool::new(false));
        let is_silent = Arc::clone(&silent);
        thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(target.clone())) else {
                    continue;
                };
                let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle");
                streams.lock().expect("no panic under the lock").extend([copy(&near), copy(&far)]);
                let (back_near, back_far) = (copy(&near), copy(&far));
                let (silent, back_silent) = (Arc::clone(&is_silent), Arc::clone(&is_silent));
                thread::spawn(move || pass(near, far, &silent));
                thread::spawn(move || pass(back_far, back_near, &back_silent));
            }
        });
        Self { address, open, silent }
    }

    /// From now on nothing gets through, and no connection ends: a broker that hangs, a network that swallows.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// Drops every connection that is open now; the next ones are passed on again.
    pub fn cut(&self) {
        for stream in self.open.lock().expect("no panic under the lock").drain(..) {
            // One that has ended by itself is as good as cut.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, silent: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    // Either side's end, in whatever way, ends both.
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !silent.load(Ordering::Relaxed) && to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
