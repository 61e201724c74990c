//! HTTP/1.1 messages as the harness needs them: read, look at, change, write; and a client that
//! sends them.
//!
//! Bodies have a `Content-Length`; that is all that the AWS SDK, the emulator and the servers under
//! test send.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};

/// Serves a connection that was accepted on a thread of its own, named for the server. Whatever ends
/// it is the client's to see; what was no HTTP is told here as well.
pub(crate) fn serve_apart(
    server: &'static str,
    stream: io::Result<TcpStream>,
    serve: impl FnOnce(TcpStream) -> io::Result<()> + Send + 'static,
) -> Option<JoinHandle<()>> {
    let started = stream.and_then(|stream| {
        thread::Builder::new()
            .name(format!("{server} connection"))
            .spawn(move || {
                if let Err(error) = serve(stream)
                    && error.kind() == io::ErrorKind::InvalidData
                {
                    eprintln!("{server}: {error}");
                }
            })
    });
    started
        .inspect_err(|error| eprintln!("{server}: cannot serve a connection: {error}"))
        .ok()
}

/// A client of one server. Keeps its connection; not for use by several threads at once.
#[derive(Debug)]
pub struct Client {
    server: SocketAddr,
    connection: Option<(TcpStream, BufReader<TcpStream>)>,
}

impl Client {
    /// A client of the server at this address; it connects when it first sends something.
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            connection: None,
        }
    }

    /// Sends a request and returns the answer, whatever its status.
    ///
    /// # Errors
    /// If the server cannot be reached, or closes the connection without an answer. Nothing is sent
    /// again.
    pub fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<Message> {
        let mut request = Message {
            start_line: format!("{method} {target} HTTP/1.1"),
            headers: Vec::new(),
            body: Vec::new(),
        };
        request.set_header("host", Some(self.server.to_string()));
        for (name, value) in headers {
            request.set_header(name, Some((*value).to_owned()));
        }
        request.set_body(body.as_bytes().to_vec());
        // Given back only after a whole answer: what is left of a broken one is nobody's answer.
        let (mut stream, mut answers) = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.server)?;
                stream.set_nodelay(true)?;
                let answers = BufReader::new(stream.try_clone()?);
                (stream, answers)
            }
        };
        request.write(&mut stream)?;
        let answer = Message::read(&mut answers)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if answer.header("connection") != Some("close") {
            self.connection = Some((stream, answers));
        }
        Ok(answer)
    }
}

/// A request or an answer.
#[derive(Debug, Clone)]
pub struct Message {
    pub(crate) start_line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// An answer with this status and body and no other header than its length.
    pub(crate) fn answer(status: u16, body: Vec<u8>) -> Self {
        let mut message = Self {
            // Nobody reads the reason phrase; the space before it is required (RFC 9112, 4).
            start_line: format!("HTTP/1.1 {status} "),
            headers: Vec::new(),
            body: Vec::new(),
        };
        message.set_body(body);
        message
    }

    /// The next message, or `None` if the peer closed the connection instead.
    ///
    /// # Errors
    /// If the connection breaks inside a message, or the message is none.
    pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut start_line = String::new();
        if from.read_line(&mut start_line)? == 0 {
            return Ok(None);
        }
        start_line.truncate(start_line.trim_end().len());
        let mut message = Self {
            start_line,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| invalid(format!("not a header: {line:?}")))?;
            message
                .headers
                .push((name.to_owned(), value.trim().to_owned()));
        }
        if message.header("transfer-encoding").is_some() {
            return Err(invalid("transfer encodings are not supported".to_owned()));
        }
        let length = match message.header("content-length") {
            Some(length) => (length.parse())
                .map_err(|error| invalid(format!("content-length {length:?}: {error}")))?,
            None => 0,
        };
        message.body = vec![0; length];
        from.read_exact(&mut message.body)?;
        Ok(Some(message))
    }

    /// Sends the message in one piece.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = format!("{}\r\n", self.start_line).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// The value of the first header of this name, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Replaces a header, or removes it.
    pub(crate) fn set_header(&mut self, name: &str, value: Option<String>) {
        self.headers
            .retain(|(candidate, _)| !candidate.eq_ignore_ascii_case(name));
        if let Some(value) = value {
            self.headers.push((name.to_owned(), value));
        }
    }

    /// Replaces the body and the header that tells its length.
    pub(crate) fn set_body(&mut self, body: Vec<u8>) {
        self.set_header("content-length", Some(body.len().to_string()));
        self.body = body;
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The status of an answer.
    ///
    /// # Errors
    /// If this is no answer.
    pub fn status(&self) -> io::Result<u16> {
        self.start_line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| invalid(format!("not a status line: {:?}", self.start_line)))
    }
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
