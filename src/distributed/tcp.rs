//! Ranks that find each other by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and talk over a socket a pair.
//!
//! Rank 0 listens at the master's address. The others connect, say who they are, and learn from it where all of them
//! listen; then each connects to those before it. From there on ranks are equal.
//!
//! What travels is frames: a byte that says what it is, the length as 8 bytes (little end first), the content. A rank that
//! ends by an error sends its sentence to all others first, so they know the first cause; one that dies closes its
//! sockets, or stops answering the system's probes, and the others name it. Nothing is encrypted, and whoever can reach
//! the port during the start can take the place of a rank: this is for networks that you trust.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};

use super::{Collective, check_exchange};
use crate::{Error, Result};

/// Time that all ranks have to come.
const START: Duration = Duration::from_secs(300);
/// Time that a stranger has to say who it is.
const GREETING: Duration = Duration::from_secs(10);
/// Time that the others have to hear why this rank ends.
const FAREWELL: Duration = Duration::from_secs(2);
/// Silence after which the system asks whether the other machine is still there, and time between its questions.
const SILENCE: Duration = Duration::from_secs(5);
/// Longest message of the start.
const MOST_WORDS: u64 = 1 << 20;

const WORDS: u8 = b'w';
const DATA: u8 = b'd';
const FAILURE: u8 = b'f';

/// Where the ranks meet, and who this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// Number of this process.
    pub rank: usize,
    /// Number of processes.
    pub ranks: usize,
    /// Name or address of rank 0's machine.
    pub address: String,
    /// Its port.
    pub port: u16,
}

/// What a rank says first.
#[derive(Serialize, Deserialize)]
struct Hello {
    xlnet: String, // version
    ranks: usize,
    rank: usize,
    port: u16,
    name: String,
}

/// What rank 0 answers.
#[derive(Serialize, Deserialize)]
enum Welcome {
    Refused(String),
    Peers { token: u64, peers: Vec<(SocketAddr, String)> },
}

/// What a rank says to those before it.
#[derive(Serialize, Deserialize)]
struct Knock {
    token: u64,
    rank: usize,
}

struct Link {
    stream: TcpStream,
    name: String,
}

/// This process and its sockets to all others.
pub struct Tcp {
    rank: usize,
    links: Vec<Option<Link>>, // by rank; none to itself
    cause: Option<String>,
    left: bool,
}

impl Tcp {
    /// Waits until all ranks are there, five minutes at most.
    ///
    /// # Errors
    /// When the address cannot be used, some rank does not come (the sentence says which), or ranks differ in number or
    /// version.
    pub fn meet(meeting: &Meeting) -> Result<Self> {
        let deadline = Instant::now() + START;
        let links = if meeting.rank == 0 { receive(meeting, deadline)? } else { join(meeting, deadline)? };
        for link in links.iter().flatten() {
            let prepared = prepare(&link.stream);
            prepared.map_err(|e| Error::ranks(format!("the socket to {} cannot be set up: {e}", link.name)))?;
        }
        Ok(Tcp { rank: meeting.rank, links, cause: None, left: false })
    }
}

/// "rank 2 (process 1234 on host)".
fn own_name(rank: usize) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "an unnamed machine" } else { host.trim() };
    format!("rank {rank} (process {} on {host})", std::process::id())
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE))?;
    Ok(())
}

/// Rank 0: listens until all others have come, and makes them known to each other.
fn receive(meeting: &Meeting, deadline: Instant) -> Result<Vec<Option<Link>>> {
    let Meeting { ranks, address, port, .. } = meeting;
    let mut links: Vec<Option<Link>> = (0..*ranks).map(|_| None).collect();
    let mut peers = vec![(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), own_name(0)); *ranks];
    let listener = listen(address, *port)?;
    let refuse = |links: &[Option<Link>], extra: Option<&TcpStream>, why: String| {
        for stream in links.iter().flatten().map(|link| &link.stream).chain(extra) {
            let _ = say(stream, &Welcome::Refused(why.clone()));
        }
        Err(Error::ranks(why))
    };
    while links.iter().flatten().count() + 1 < *ranks {
        let Some((stream, from)) = accept(&listener, deadline)? else {
            let absent: Vec<_> = (1..*ranks).filter(|&r| links[r].is_none()).map(|r| r.to_string()).collect();
            let (absent, seconds) = (absent.join(", "), START.as_secs());
            let why = format!("waited {seconds} s at {address}:{port} for ranks that did not come: {absent}");
            return refuse(&links, None, why);
        };
        // Anyone may knock at a port; only what speaks like a rank is one.
        let Ok(hello) = hear::<Hello>(&stream, Instant::now() + GREETING) else { continue };
        let Hello { xlnet, rank, name, .. } = &hello;
        if hello.ranks != *ranks {
            let theirs = hello.ranks;
            return refuse(&links, Some(&stream), format!("WORLD_SIZE is {ranks} at rank 0, but {theirs} at {name}"));
        }
        if xlnet != env!("CARGO_PKG_VERSION") {
            let ours = env!("CARGO_PKG_VERSION");
            return refuse(&links, Some(&stream), format!("rank 0 is xlnet {ours}, but {name} is xlnet {xlnet}"));
        }
        if *rank == 0 || rank >= ranks || links[*rank].is_some() {
            let why = format!("RANK must be another number below {ranks} in each process; {name} says {rank}");
            return refuse(&links, Some(&stream), why);
        }
        peers[*rank] = (SocketAddr::new(from.ip(), hello.port), name.clone());
        links[*rank] = Some(Link { stream, name: name.clone() });
    }
    let token = random_token();
    for link in links.iter().flatten() {
        let said = say(&link.stream, &Welcome::Peers { token, peers: peers.clone() });
        said.map_err(|e| Error::ranks(format!("{} ended during the start: {e}", link.name)))?;
    }
    Ok(links)
}

/// The others: connect to rank 0, then to those before, and wait for those behind.
fn join(meeting: &Meeting, deadline: Instant) -> Result<Vec<Option<Link>>> {
    let Meeting { rank, ranks, address, port } = meeting;
    let master = format!("{address}:{port}");
    let failed = |what: &str, e: std::io::Error| Error::ranks(format!("rank {rank} {what}: {e}"));
    let absent = |e: std::io::Error| {
        let seconds = START.as_secs();
        Error::ranks(format!("rank {rank} waited {seconds} s for rank 0 at {master}, which cannot be reached: {e}"))
    };
    let stream =
        connect(|| (address.as_str(), *port).to_socket_addrs().map(Iterator::collect), deadline).map_err(absent)?;
    let here = stream.local_addr().map_err(|e| failed("has no address", e))?.ip();
    let listener = TcpListener::bind((here, 0)).map_err(|e| failed("cannot listen", e))?;
    let own_port = listener.local_addr().map_err(|e| failed("has no port", e))?.port();
    let xlnet = env!("CARGO_PKG_VERSION").to_owned();
    let hello = Hello { xlnet, ranks: *ranks, rank: *rank, port: own_port, name: own_name(*rank) };
    let answered = say(&stream, &hello).and_then(|()| hear::<Welcome>(&stream, deadline + GREETING));
    let (token, peers) = match answered.map_err(|e| failed(&format!("got no answer from rank 0 at {master}"), e))? {
        Welcome::Refused(why) => return Err(Error::ranks(why)),
        Welcome::Peers { peers, .. } if peers.len() != *ranks => return Err(Error::ranks("rank 0 counts otherwise")),
        Welcome::Peers { token, peers } => (token, peers),
    };
    let mut links: Vec<Option<Link>> = (0..*ranks).map(|_| None).collect();
    for (r, (address, name)) in peers.iter().enumerate().take(*rank).skip(1) {
        let stream = connect(|| Ok(vec![*address]), deadline).and_then(|stream| {
            say(&stream, &Knock { token, rank: *rank })?;
            Ok(stream)
        });
        let stream = stream.map_err(|e| failed(&format!("cannot reach {name} at {address}"), e))?;
        links[r] = Some(Link { stream, name: name.clone() });
    }
    while links.iter().flatten().count() + 2 < *ranks {
        let Some((stream, _)) = accept(&listener, deadline)? else {
            let missing: Vec<_> = (rank + 1..*ranks).filter(|&r| links[r].is_none()).map(|r| &*peers[r].1).collect();
            return Err(Error::ranks(format!("rank {rank} waited in vain for {}", missing.join(", "))));
        };
        let Ok(knock) = hear::<Knock>(&stream, Instant::now() + GREETING) else { continue };
        if knock.token == token && knock.rank > *rank && knock.rank < *ranks && links[knock.rank].is_none() {
            links[knock.rank] = Some(Link { stream, name: peers[knock.rank].1.clone() });
        }
    }
    links[0] = Some(Link { stream, name: peers[0].1.clone() });
    Ok(links)
}

/// A number that a process of another run does not guess by accident.
fn random_token() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// Listens at one of the addresses of a name; at all of this machine where none of them is its own, as behind a service's
/// name.
fn listen(address: &str, port: u16) -> Result<TcpListener> {
    let failed =
        |e| Error::ranks(format!("rank 0 cannot listen at {address}:{port}: {e}; see MASTER_ADDR, MASTER_PORT"));
    let all: Vec<SocketAddr> = (address, port).to_socket_addrs().map_err(failed)?.collect();
    match TcpListener::bind(&all[..]) {
        Err(e) if e.kind() == ErrorKind::AddrNotAvailable => {
            TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).map_err(failed)
        }
        bound => bound.map_err(failed),
    }
}

/// The next visitor, or `None` at the deadline.
fn accept(listener: &TcpListener, deadline: Instant) -> Result<Option<(TcpStream, SocketAddr)>> {
    let failed = |e| Error::ranks(format!("this rank cannot listen any more: {e}"));
    listener.set_nonblocking(true).map_err(failed)?;
    loop {
        match listener.accept() {
            Ok((stream, from)) => {
                stream.set_nonblocking(false).map_err(failed)?;
                return Ok(Some((stream, from)));
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() >= deadline => return Ok(None),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => {} // a visitor who left at once
            Err(e) => return Err(failed(e)),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Tries until somebody listens there, or the deadline.
fn connect(addresses: impl Fn() -> std::io::Result<Vec<SocketAddr>>, deadline: Instant) -> std::io::Result<TcpStream> {
    loop {
        let tried = addresses().and_then(|all| {
            let mut last = std::io::Error::from(ErrorKind::AddrNotAvailable);
            for address in all {
                match TcpStream::connect_timeout(&address, GREETING) {
                    Ok(stream) => return Ok(stream),
                    Err(e) => last = e,
                }
            }
            Err(last)
        });
        match tried {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            done => return done,
        }
    }
}

fn write_frame(mut stream: &TcpStream, kind: u8, content: &[u8]) -> std::io::Result<()> {
    let mut head = [kind; 9];
    head[1..].copy_from_slice(&(content.len() as u64).to_le_bytes());
    stream.write_all(&head)?;
    stream.write_all(content)
}

fn read_head(mut stream: &TcpStream) -> std::io::Result<(u8, u64)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    Ok((kind, u64::from_le_bytes(length)))
}

/// A short content of known length.
fn read_words(mut stream: &TcpStream, length: u64) -> std::io::Result<Vec<u8>> {
    if length > MOST_WORDS {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut content = vec![0; length as usize];
    stream.read_exact(&mut content)?;
    Ok(content)
}

fn say(stream: &TcpStream, words: &impl Serialize) -> std::io::Result<()> {
    write_frame(stream, WORDS, &serde_json::to_vec(words)?)
}

fn hear<T: DeserializeOwned>(stream: &TcpStream, deadline: Instant) -> std::io::Result<T> {
    let left = deadline.saturating_duration_since(Instant::now());
    stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
    match read_head(stream)? {
        (WORDS, length) => Ok(serde_json::from_slice(&read_words(stream, length)?)?),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

impl Link {
    /// What this rank's sentence or its end is, if the next that comes from it is one of them.
    fn trouble(&self) -> Option<Trouble> {
        let mut next = [0];
        let peeked = self.stream.set_nonblocking(true).and_then(|()| {
            let peeked = self.stream.peek(&mut next);
            self.stream.set_nonblocking(false)?;
            peeked
        });
        match peeked {
            Ok(1) if next[0] == DATA => None, // it is ahead
            Err(e) if e.kind() == ErrorKind::WouldBlock => None,
            _ => self.read_data(&mut []).err(),
        }
    }
    /// Fills `content` with the next data of this rank; otherwise why there are none.
    fn read_data(&self, content: &mut [u8]) -> std::result::Result<(), Trouble> {
        let gone = |e: std::io::Error| {
            let how = match e.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "".into(),
                _ => format!(" ({e})"),
            };
            Trouble::Silent(format!("{} has ended without a word{how}", self.name))
        };
        match read_head(&self.stream).map_err(gone)? {
            (DATA, length) if length == content.len() as u64 => (&self.stream).read_exact(content).map_err(gone),
            (FAILURE, length) => {
                let words = read_words(&self.stream, length).map_err(gone)?;
                Err(Trouble::Told(String::from_utf8_lossy(&words).into_owned()))
            }
            (_, length) => {
                let (name, expected) = (&self.name, content.len());
                let what =
                    format!("{name} sent {length} bytes where {expected} were expected: it is not at this place");
                Err(Trouble::Told(what))
            }
        }
    }
}

/// Why a rank sent nothing.
enum Trouble {
    /// It said why, which is the first cause.
    Told(String),
    /// It is not there any more.
    Silent(String),
}

impl Collective for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }
    fn ranks(&self) -> usize {
        self.links.len()
    }
    fn engine(&self) -> &'static str {
        "TCP"
    }

    /// A thread writes to the ranks behind, one after the other, while this one reads from those before. Everyone does so
    /// in the same pattern and to its end, even when somebody is found dead: so nobody waits for one who waits.
    fn exchange(&mut self, outgoing: &[&[u8]], incoming: &mut [&mut [u8]]) -> Result<()> {
        check_exchange(self, outgoing, incoming)?;
        if let Some(cause) = &self.cause {
            return Err(Error::ranks(cause.clone()));
        }
        let (n, me, links) = (self.links.len(), self.rank, &self.links);
        incoming[me].copy_from_slice(outgoing[me]);
        let (mut told, mut silent) = (None, None);
        std::thread::scope(|scope| {
            let write = || {
                for to in (1..n).map(|k| (me + k) % n) {
                    if let Some(link) = &links[to] {
                        // Whoever takes no data is found out by reading from it.
                        let _ = write_frame(&link.stream, DATA, outgoing[to]);
                    }
                }
            };
            if let Err(e) = std::thread::Builder::new().spawn_scoped(scope, write) {
                told = Some(format!("{} gets no thread from the system: {e}", own_name(me)));
                return;
            }
            for from in (1..n).map(|k| (me + n - k) % n) {
                let Some(link) = &links[from] else { continue };
                match link.read_data(incoming[from]) {
                    Ok(()) => {}
                    Err(Trouble::Told(what)) => told = told.take().or(Some(what)),
                    Err(Trouble::Silent(what)) => silent = silent.take().or(Some(what)),
                }
            }
        });
        match told.or(silent) {
            None => Ok(()),
            Some(cause) => {
                self.cause = Some(cause.clone());
                Err(Error::ranks(cause))
            }
        }
    }

    fn check(&mut self) -> Result<()> {
        let (mut told, mut silent) = (None, None);
        for trouble in self.links.iter().flatten().filter_map(Link::trouble) {
            match trouble {
                Trouble::Told(what) => told = told.or(Some(what)),
                Trouble::Silent(what) => silent = silent.or(Some(what)),
            }
        }
        if self.cause.is_none() {
            self.cause = told.or(silent);
        }
        self.cause.as_ref().map_or(Ok(()), |cause| Err(Error::ranks(cause.clone())))
    }

    fn fail(&mut self, error: &Error) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        let cause = self.cause.take().unwrap_or_else(|| format!("{} failed: {error}", own_name(self.rank)));
        let links = || self.links.iter().flatten().map(|link| &link.stream);
        for stream in links() {
            let _ = stream.set_write_timeout(Some(FAREWELL));
            let _ = write_frame(stream, FAILURE, cause.as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
        }
        // A socket closed with data unread takes its last words back; so everything is read until the others leave too.
        let deadline = Instant::now() + FAREWELL;
        let mut waste = vec![0; 1 << 16];
        for mut stream in links() {
            let left = || deadline.saturating_duration_since(Instant::now());
            while !left().is_zero()
                && stream.set_read_timeout(Some(left().max(Duration::from_millis(1)))).is_ok()
                && stream.read(&mut waste).is_ok_and(|n| n > 0)
            {}
        }
        self.cause = Some(cause);
    }

    fn finish(&mut self) -> Result<()> {
        super::any(self, false).map(|_| ()) // so that nobody closes what another still reads
    }
}
