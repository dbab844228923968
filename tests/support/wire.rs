//! HTTP/1.1 as bytes: what was really sent, and a server that sees and says nothing else.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;

/// One request or reply, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Start line and headers, with the empty line that ends them.
    head: String,
    body: Vec<u8>,
}

impl Message {
    /// The message in a capture.
    pub fn parse(bytes: &[u8]) -> Self {
        Self::read(&mut BufReader::new(bytes)).expect("a whole HTTP message")
    }

    /// The next message of a stream; `None` at its end.
    pub fn read(stream: &mut impl BufRead) -> Option<Self> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let mut message = Self { head, body: Vec::new() };
        assert_eq!(message.header("transfer-encoding"), None, "chunks are not read here");
        let length = message.header("content-length").map_or(0, |text| text.parse().unwrap());
        message.body = vec![0; length];
        stream.read_exact(&mut message.body).ok()?;
        Some(message)
    }

    pub fn bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), &self.body].concat()
    }

    pub fn start_line(&self) -> &str {
        self.head.split("\r\n").next().unwrap_or_default()
    }

    /// Of a request.
    pub fn method(&self) -> &str {
        self.start_line().split(' ').next().unwrap_or_default()
    }

    /// Of a request.
    pub fn path(&self) -> &str {
        self.start_line().split(' ').nth(1).unwrap_or_default()
    }

    /// Names in lower case and values, in order.
    pub fn headers(&self) -> impl Iterator<Item = (String, &str)> {
        self.head.split("\r\n").skip(1).filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim()))
        })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find_map(|(header, value)| (header == name).then_some(value))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Changes the value of a header that is there once.
    pub fn alter_header(&mut self, name: &str, change: impl FnOnce(&str) -> String) {
        let lines = self.head.split("\r\n").map(|line| match line.split_once(':') {
            Some((header, _)) if header.eq_ignore_ascii_case(name) => (header, true),
            _ => (line, false),
        });
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.iter().filter(|(_, named)| *named).count(), 1, "{name} in {}", self.head);
        let value = change(self.header(name).unwrap());
        let line = |(text, named): &(&str, bool)| match named {
            true => format!("{text}: {value}"),
            false => (*text).to_owned(),
        };
        self.head = lines.iter().map(line).collect::<Vec<_>>().join("\r\n");
    }

    /// Changes the text of a field of the body's outermost object, and no other byte of it.
    pub fn alter_field(&mut self, name: &str, change: impl FnOnce(&str) -> String) {
        let object = self.json();
        let old = object[name].as_str().unwrap_or_else(|| panic!("no text {name}"));
        let body = String::from_utf8(std::mem::take(&mut self.body)).unwrap();
        let (written, new) = (Value::from(old).to_string(), Value::from(change(old)).to_string());
        // The Python dendrite writes a blank after the colon.
        let found = [":", ": "].into_iter().find_map(|colon| {
            let pair = format!("\"{name}\"{colon}{written}");
            (body.matches(&pair).count() == 1).then(|| (pair, format!("\"{name}\"{colon}{new}")))
        });
        let (pair, replacement) = found.unwrap_or_else(|| panic!("{name} is not there once: {body}"));
        self.body = body.replace(&pair, &replacement).into_bytes();
        let length = self.body.len();
        self.alter_header("content-length", |_| length.to_string());
    }
}

/// A request, and which of the accepted connections brought it (from 0).
#[derive(Debug, Clone)]
pub struct Seen {
    pub connection: usize,
    pub request: Message,
}

type Respond = dyn Fn(&Message) -> Vec<u8> + Send + Sync;

/// A server on loopback with a thread per connection. Everything ends when it is dropped.
pub struct RawServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    respond: Box<Respond>,
    seen: Mutex<Vec<Seen>>,
    open: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
}

impl RawServer {
    /// Answers every request with the bytes `respond` gives; with none the connection is closed.
    pub fn start(respond: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            respond: Box::new(respond),
            seen: Mutex::default(),
            open: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let listening = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || listen(&listener, &shared)
        });
        Self { address, shared, listening: Some(listening) }
    }

    /// A server that hands each request on to `upstream`, altered, and the reply back.
    pub fn proxy(upstream: SocketAddr, alter: impl Fn(&mut Message) + Send + Sync + 'static) -> Self {
        Self::start(move |request| {
            let mut request = request.clone();
            alter(&mut request);
            forward(upstream, &request).unwrap_or_default()
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far, in the order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many connections were opened so far.
    pub fn connections(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    std::thread::scope(|scope| {
        for stream in listener.incoming().map_while(Result::ok) {
            if shared.over.load(Ordering::SeqCst) {
                break;
            }
            let mut open = shared.open.lock().unwrap();
            let connection = open.len();
            open.push(stream.try_clone().unwrap());
            drop(open);
            scope.spawn(move || serve(stream, connection, shared));
        }
        for stream in shared.open.lock().unwrap().iter() {
            // The other end may have closed it.
            let _closed = stream.shutdown(Shutdown::Both);
        }
    });
}

fn serve(mut stream: TcpStream, connection: usize, shared: &Shared) {
    let mut requests = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = Message::read(&mut requests) {
        shared.seen.lock().unwrap().push(Seen { connection, request: request.clone() });
        let reply = (shared.respond)(&request);
        if reply.is_empty() || stream.write_all(&reply).is_err() {
            break;
        }
    }
    let _closed = stream.shutdown(Shutdown::Both);
}

fn forward(upstream: SocketAddr, request: &Message) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).ok()?;
    stream.write_all(&request.bytes()).ok()?;
    Some(Message::read(&mut BufReader::new(stream))?.bytes())
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _woken = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            let ended = listening.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a connection of the server panicked");
        }
    }
}

/// Swaps one character of a base64 or hex text for another of the same alphabet.
pub fn swap_character(text: &str, at: usize) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    characters[at] = if characters[at] == '1' { '2' } else { '1' };
    characters.into_iter().collect()
}
