//! A way to the database that can be cut and frozen. (Stopping the server itself would not do for the second: each
//! of its connections is a process of its own.)

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Connections break, and new ones too.
    Cut,
    /// Connections stay, and no bytes are forwarded.
    Frozen,
}

#[derive(Clone, Copy, Debug)]
struct State {
    way: Way,
    connections: u64,
    /// Connections with a lower number are frozen for good.
    stranded_below: u64,
}

pub(crate) struct Proxy {
    port: u16,
    state: watch::Sender<State>,
}

impl Proxy {
    pub(crate) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, watch) = watch::channel(State { way: Way::Open, connections: 0, stranded_below: 0 });
        let counted = state.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let (client, _) = listener.accept().await.unwrap();
                if watch.borrow().way == Way::Cut {
                    continue;
                }
                counted.send_modify(|state| state.connections = number + 1);
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(pump(number, from_client, to_server, watch.clone()));
                tokio::spawn(pump(number, from_server, to_client, watch.clone()));
            }
        });
        Self { port, state }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, way: Way) {
        self.state.send_modify(|state| state.way = way);
    }

    /// Forwards no more bytes of the existing connections; new ones are fine.
    pub(crate) fn strand(&self) {
        self.state.send_modify(|state| state.stranded_below = state.connections);
    }
}

async fn pump(
    number: u64,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = state.wait_for(|state| state.way == Way::Cut) => return,
        };
        let forwards = |state: &State| state.way != Way::Frozen && number >= state.stranded_below;
        // The end of a connection is not forwarded either.
        if state.wait_for(forwards).await.is_err() || read == 0 {
            return;
        }
        if state.borrow().way == Way::Cut || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
