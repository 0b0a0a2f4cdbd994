//! Free TCP ports that stay free.
//!
//! Asking the system for a free port and closing it again is a race that clusters started side by side lose now and
//! then. A [`Port`] keeps its socket bound, but does not listen: the system gives the number to no other process, while
//! the server it is meant for can bind it too, because both sides set `SO_REUSEADDR` (as Go's and Postgres's listeners
//! do). It is kept as long as the cluster lives, so that a server can be restarted on its port.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// A reserved port.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _reservation: OwnedFd,
}

impl Port {
    /// Reserves a free port of an address.
    pub(crate) fn reserve(address: Ipv4Addr) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(address, 0))?;
        let number = SocketAddrV4::try_from(getsockname(&socket)?)?.port();
        Ok(Self { number, _reservation: socket })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}
