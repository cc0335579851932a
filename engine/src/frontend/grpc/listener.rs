//! TCP and Unix-socket listeners, merged into one stream of connections.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::authority::Rewriter;
use super::patient::Patient;
use crate::admission::{Admission, Seat};
use crate::frontend::peer::Peer;
use crate::frontend::tls::Tls;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;

/// Bind a TCP listener.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind_tcp(address: SocketAddr) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Bind a TCP listener for whoever comes: over both families where the machine has IPv6, else over
/// IPv4.
///
/// # Errors
/// When the port cannot be bound.
pub fn bind_everywhere(port: u16) -> io::Result<StdTcpListener> {
    bind_tcp(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
        .or_else(|_| bind_tcp(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)))
}

/// Bind a Unix-socket listener. A socket file that nobody listens on any more is replaced.
///
/// # Errors
/// When the path cannot be bound, or somebody listens there.
pub fn bind_unix(path: &Path) -> io::Result<StdUnixListener> {
    let listener = match StdUnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            std::fs::remove_file(path)?;
            StdUnixListener::bind(path)
        }
        other => other,
    }?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Take over a TCP socket that was bound by whoever started this process, and listen on it.
///
/// # Errors
/// When the descriptor is no such socket.
pub fn inherit_tcp(descriptor: RawFd) -> io::Result<StdTcpListener> {
    let socket = inherit(descriptor)?;
    if !matches!(socket.domain()?, Domain::IPV4 | Domain::IPV6) {
        return Err(io::Error::other(format!("descriptor {descriptor} is no TCP socket")));
    }
    Ok(socket.into())
}

/// As [`inherit_tcp`], for a Unix socket.
///
/// # Errors
/// When the descriptor is no such socket.
pub fn inherit_unix(descriptor: RawFd) -> io::Result<StdUnixListener> {
    let socket = inherit(descriptor)?;
    if socket.domain()? != Domain::UNIX {
        return Err(io::Error::other(format!("descriptor {descriptor} is no Unix socket")));
    }
    Ok(socket.into())
}

/// The socket behind a descriptor, as one of our own, listening.
fn inherit(descriptor: RawFd) -> io::Result<Socket> {
    if descriptor < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: it is borrowed for one duplication only, which fails where nothing is open.
    let theirs = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let socket = Socket::from(theirs.try_clone_to_owned()?);
    if socket.r#type()? != Type::STREAM {
        return Err(io::Error::other(format!("descriptor {descriptor} is no stream socket")));
    }
    // Who bound it may have left this to us; a second time it changes nothing.
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether a path is that of a socket, and of no other file, on which nobody listens.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = path.symlink_metadata().is_ok_and(|file| file.file_type().is_socket());
    is_socket
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The listeners of one server.
pub struct Listeners {
    tcp: Option<TcpListener>,
    unix: Option<Unix>,
    /// For both, as TensorFlow Serving has it.
    tls: Option<Arc<Tls>>,
    admission: Arc<Admission>,
}

struct Unix {
    listener: UnixListener,
    /// Unless it is somebody else's.
    path: Option<PathBuf>,
}

impl Drop for Unix {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // A socket file that is left behind does no harm: the next server replaces it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Listeners {
    /// Take over bound listeners; inside a runtime only.
    ///
    /// # Errors
    /// When the runtime cannot watch them.
    pub fn new(
        tcp: Option<StdTcpListener>,
        unix: Option<(StdUnixListener, Option<PathBuf>)>,
        tls: Option<Arc<Tls>>,
        admission: Arc<Admission>,
    ) -> io::Result<Self> {
        let tcp = tcp.map(TcpListener::from_std).transpose()?;
        let unix = match unix {
            Some((listener, path)) => {
                Some(Unix { listener: UnixListener::from_std(listener)?, path })
            }
            None => None,
        };
        Ok(Self { tcp, unix, tls, admission })
    }

    /// The connections, as they come; none any more once `stop` is done and those that were made
    /// by then are taken.
    pub fn incoming(self, stop: impl Future<Output = ()> + Send + 'static) -> Incoming {
        let stop = Some(Box::pin(stop) as Pin<Box<dyn Future<Output = ()> + Send>>);
        Incoming { listeners: self, handshakes: JoinSet::new(), paused: None, stop }
    }
}

/// Connections of all listeners.
pub struct Incoming {
    listeners: Listeners,
    /// Connections that have not shown who they are yet.
    handshakes: JoinSet<io::Result<Patient<Connection>>>,
    /// Set while the process has no more file descriptors: accepting again at once would spin.
    paused: Option<Pin<Box<tokio::time::Sleep>>>,
    /// `None` once it is done: what waits to be accepted is, and nothing after it.
    stop: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

impl Stream for Incoming {
    type Item = io::Result<Patient<Connection>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(cx).is_ready()) {
            self.stop = None;
        }
        loop {
            if let Some(sleep) = &mut self.paused {
                if sleep.as_mut().poll(cx).is_pending() {
                    return self.nothing();
                }
                self.paused = None;
            }
            // A handshake that failed is its client's affair.
            while let Poll::Ready(Some(done)) = self.handshakes.poll_join_next(cx) {
                if let Ok(Ok(connection)) = done {
                    return Poll::Ready(Some(Ok(connection)));
                }
            }
            if self.handshakes.len() >= MAX_HANDSHAKES {
                return self.nothing();
            }
            let Poll::Ready(accepted) = self.poll_accept(cx) else { return self.nothing() };
            let Ok((accepted, seat)) = accepted else {
                // Whatever went wrong with one connection, the listener goes on.
                self.paused = Some(Box::pin(tokio::time::sleep(PAUSE)));
                continue;
            };
            // A connection too many is closed at once: that costs least.
            let Some(seat) = seat else { continue };
            match self.listeners.tls.clone() {
                None => return Poll::Ready(Some(Ok(Patient::new(accepted, seat)))),
                Some(tls) => drop(self.handshakes.spawn(handshake(tls, accepted, seat))),
            }
        }
    }
}

/// Handshakes under way at one time; further clients wait to be accepted.
const MAX_HANDSHAKES: usize = 1024;

async fn handshake(
    tls: Arc<Tls>,
    connection: Connection,
    seat: Seat,
) -> io::Result<Patient<Connection>> {
    let stream = tls.accept(connection).await?;
    Ok(Patient::new(Connection::Tls(Box::new(stream)), seat))
}

impl Incoming {
    /// What there is when nobody waits: the end, or something later.
    fn nothing<T>(&self) -> Poll<Option<T>> {
        match self.stop {
            None => Poll::Ready(None),
            Some(_) => Poll::Pending,
        }
    }

    /// The next connection, and its seat if there is one for it.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Connection, Option<Seat>)>> {
        let admission = &self.listeners.admission;
        if let Some(tcp) = &self.listeners.tcp {
            if let Poll::Ready(accepted) = tcp.poll_accept(cx) {
                return Poll::Ready(accepted.and_then(|(stream, address)| {
                    stream.set_nodelay(true)?;
                    Ok((Connection::Tcp(stream), admission.seat(Some(address.ip()))))
                }));
            }
        }
        if let Some(unix) = &self.listeners.unix {
            if let Poll::Ready(accepted) = unix.listener.poll_accept(cx) {
                return Poll::Ready(
                    accepted.map(|(stream, _)| (Connection::unix(stream), admission.seat(None))),
                );
            }
        }
        Poll::Pending
    }
}

/// One connection.
pub enum Connection {
    Tcp(TcpStream),
    Unix(Box<UnixConnection>),
    Tls(Box<TlsStream<Connection>>),
}

/// A Unix socket's connection, whose requests name an authority that is made acceptable.
pub struct UnixConnection {
    stream: UnixStream,
    rewriter: Rewriter,
    /// Rewritten, and not read yet from `at` on.
    ready: Vec<u8>,
    at: usize,
}

impl Connection {
    fn unix(stream: UnixStream) -> Self {
        let rewriter = Rewriter::default();
        Connection::Unix(Box::new(UnixConnection { stream, rewriter, ready: Vec::new(), at: 0 }))
    }
}

impl UnixConnection {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.at == self.ready.len() {
            self.ready.clear();
            self.at = 0;
            let mut space = [MaybeUninit::uninit(); READ];
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.rewriter.feed(read.filled(), &mut self.ready);
        }
        let count = buffer.remaining().min(self.ready.len() - self.at);
        buffer.put_slice(&self.ready[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

/// Bytes read at a time.
const READ: usize = 16 << 10;

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Connection::Tcp(stream) => {
                let is_local =
                    stream.peer_addr().is_ok_and(|a| a.ip().to_canonical().is_loopback());
                Peer { is_local, ..Peer::default() }
            }
            Connection::Unix(_) => Peer { is_local: true, ..Peer::default() },
            Connection::Tls(stream) => {
                let (inner, session) = stream.get_ref();
                Peer { is_certified: session.peer_certificates().is_some(), ..inner.connect_info() }
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Connection::Unix(unix) => unix.poll_read(cx, buffer),
            Connection::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Connection::Unix(unix) => Pin::new(&mut unix.stream).poll_write(cx, bytes),
            Connection::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Connection::Unix(unix) => Pin::new(&mut unix.stream).poll_write_vectored(cx, slices),
            Connection::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Connection::Unix(unix) => Pin::new(&mut unix.stream).poll_flush(cx),
            Connection::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Connection::Unix(unix) => Pin::new(&mut unix.stream).poll_shutdown(cx),
            Connection::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_socket_that_was_bound_by_somebody_else_is_listened_on() {
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = bound.local_addr().unwrap().as_socket().unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());

        let listener = inherit_tcp(bound.as_raw_fd()).unwrap();
        assert_eq!(listener.local_addr().unwrap(), address);
        assert!(std::net::TcpStream::connect(address).is_ok());
        // The one of whoever bound it is still open.
        drop(listener);
        assert!(std::net::TcpStream::connect(address).is_ok());
    }

    #[test]
    fn whoever_comes_is_let_in_over_both_families() {
        let listener = bind_everywhere(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        if StdTcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            assert!(std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok());
        }
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_replaced_and_another_file_is_not() {
        let path = std::env::temp_dir().join(format!("servable-socket-{}", std::process::id()));
        drop(bind_unix(&path).unwrap());
        let listener = bind_unix(&path).unwrap();
        assert_eq!(bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        std::fs::remove_file(&path).unwrap();

        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_such_socket_is_refused() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for descriptor in [udp.as_raw_fd(), file.as_raw_fd(), -1, 1 << 20] {
            assert!(inherit_tcp(descriptor).is_err());
            assert!(inherit_unix(descriptor).is_err());
        }
        assert!(inherit_unix(tcp.as_raw_fd()).is_err());
    }
}
