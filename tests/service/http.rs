//! One request to the ops port, and its answer. Never here: what is asked, or expected.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::process::PATIENCE;

/// A request whose answer has not been read. `headers`: lines beside `Host`.
pub fn send_request(method: &str, address: SocketAddr, path: &str, headers: &[&str]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the ops port takes connections");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{more}Connection: close\r\n\r\n").unwrap();
    stream
}

/// Status and body of one request.
pub fn request(method: &str, address: SocketAddr, path: &str, headers: &[&str]) -> (u16, String) {
    let mut stream = send_request(method, address, path, headers);
    let mut text = String::new();
    tokio::task::block_in_place(|| stream.read_to_string(&mut text)).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {path}: {text:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
