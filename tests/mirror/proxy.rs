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
    /// Connections stay, and nothing passes.
    Frozen,
}

pub(crate) struct Proxy {
    port: u16,
    way: watch::Sender<Way>,
}

impl Proxy {
    pub(crate) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (way, watch) = watch::channel(Way::Open);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if *watch.borrow() == Way::Cut {
                    continue;
                }
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(pump(from_client, to_server, watch.clone()));
                tokio::spawn(pump(from_server, to_client, watch.clone()));
            }
        });
        Self { port, way }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = way.wait_for(|way| *way == Way::Cut) => return,
        };
        if read == 0 || way.wait_for(|way| *way != Way::Frozen).await.is_err() {
            return;
        }
        if *way.borrow() == Way::Cut || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
