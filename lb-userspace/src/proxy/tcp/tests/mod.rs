//! Sessions on loopback, byte for byte.

mod access;
mod bed;
mod introductions;

use std::io::ErrorKind;

use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use self::bed::{Bed, SECOND, accept, backend, nobody, run, server, server_on, site};
use crate::model::frontend::ConnectionLimits;

/// Everything that comes until the end, or the kind of error that ended it.
async fn rest(stream: &mut TcpStream) -> Result<Vec<u8>, ErrorKind> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes).await {
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.kind()),
    }
}

/// A frontend before one server, a client, and what the server accepted; a byte has gone
/// through from the client, so that the session is beyond connecting.
async fn joined() -> (Bed, TcpStream, TcpStream) {
    let (listener, address) = server().await;
    let bed = Bed::start(site(vec![backend("b", &[address])], &[])).await;
    let mut client = bed.connect().await;
    client.write_u8(b'^').await.unwrap();
    let mut server = accept(&listener).await;
    assert_eq!(server.read_u8().await.unwrap(), b'^');
    (bed, client, server)
}

#[test]
fn each_side_may_finish_before_the_other() {
    run(async {
        let (bed, mut client, mut server) = joined().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut server).await.unwrap(), b"question");
        server.write_all(b"answer after the end").await.unwrap();
        drop(server);
        assert_eq!(rest(&mut client).await.unwrap(), b"answer after the end");
        let record = bed.record().await;
        assert_eq!(record.outcome.to_string(), "--");
        assert_eq!((record.bytes_up, record.bytes_down), (9, 20));
        assert_eq!(record.connections, [1, 1, 1, 1]);
    });
}

#[test]
fn bulk_goes_through_unchanged_both_ways_at_once() {
    const BLOCK: usize = 64 << 10;
    const BLOCKS: usize = 256;

    async fn send_and_receive(stream: &mut TcpStream, seed: u8) -> ([u8; 32], [u8; 32]) {
        let (mut reader, mut writer) = stream.split();
        let send = async {
            let mut digest = Sha256::new();
            for number in 0..BLOCKS {
                // Lengths that do not fit any buffer.
                let length = BLOCK - number * 7;
                let block: Vec<u8> =
                    (0..length).map(|at| u8::try_from(at % 251).unwrap_or(0) ^ seed).collect();
                digest.update(&block);
                writer.write_all(&block).await.unwrap();
            }
            writer.shutdown().await.unwrap();
            digest.finalize().into()
        };
        let receive = async {
            let mut digest = Sha256::new();
            let mut block = vec![0; BLOCK];
            loop {
                match reader.read(&mut block).await.unwrap() {
                    0 => return digest.finalize().into(),
                    length => digest.update(&block[..length]),
                }
            }
        };
        tokio::join!(send, receive)
    }

    run(async {
        let (bed, mut client, mut server) = joined().await;
        let (client, server) =
            tokio::join!(send_and_receive(&mut client, 1), send_and_receive(&mut server, 2));
        assert_eq!(client.0, server.1);
        assert_eq!(server.0, client.1);
        assert_ne!(client.0, server.0);
        assert_eq!(bed.ending().await.0, "--");
        assert_eq!(bed.pipes.kept(), 2, "both directions spliced and gave their pipes back");
    });
}

#[test]
fn families_of_clients_and_servers_are_free() {
    const ADDRESSES: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];
    run(async {
        for (own, servers) in [(1, 1), (1, 0), (0, 1)] {
            let (listener, address) = server_on(ADDRESSES[servers]).await;
            let site = site(vec![backend("b", &[address])], &[]);
            let bed = Bed::start_on(ADDRESSES[own], site).await;
            let mut client = bed.connect().await;
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut server = accept(&listener).await;
            assert_eq!(rest(&mut server).await.unwrap(), b"question");
            server.write_all(b"answer").await.unwrap();
            drop(server);
            assert_eq!(rest(&mut client).await.unwrap(), b"answer");
            let record = bed.record().await;
            assert_eq!(record.outcome.to_string(), "--");
            assert_eq!(record.client.is_ipv6(), own == 1);
            assert_eq!(record.server_address, Some(address.into()));
        }
    });
}

#[test]
fn a_server_that_refuses_is_passed_over() {
    run(async {
        let (listener, address) = server().await;
        let backend = backend("b", &[nobody().await, address]);
        let bed = Bed::start(site(vec![backend], &[])).await;
        let mut client = bed.connect().await;
        accept(&listener).await.write_all(b"here").await.unwrap();
        assert_eq!(rest(&mut client).await.unwrap(), b"here");
        drop(client);
        let record = bed.record().await;
        assert_eq!((record.server.unwrap().as_str(), record.retries), ("s1", 1));
    });
}

#[test]
fn without_any_server_the_client_is_let_go() {
    run(async {
        let refused = backend("b", &[nobody().await]);
        let bed = Bed::start(site(vec![refused], &[])).await;
        // A server that is tried again gets a pause, so this takes a moment.
        assert_eq!(rest(&mut bed.connect().await).await.unwrap(), b"");
        assert_eq!(bed.ending().await, ("SC".into(), "connect_refused"));
        let bed = Bed::start(site(vec![backend("b", &[])], &[])).await;
        assert_eq!(rest(&mut bed.connect().await).await.unwrap(), b"");
        assert_eq!(bed.ending().await, ("SC".into(), "no_server"));
    });
}

#[test]
fn a_reset_of_one_side_is_a_reset_of_the_other() {
    run(async {
        let (bed, mut client, server) = joined().await;
        server.set_zero_linger().unwrap();
        drop(server);
        assert_eq!(rest(&mut client).await.unwrap_err(), ErrorKind::ConnectionReset);
        assert_eq!(bed.ending().await, ("SD".into(), "server_broke"));

        let (bed, client, mut server) = joined().await;
        client.set_zero_linger().unwrap();
        drop(client);
        assert_eq!(rest(&mut server).await.unwrap_err(), ErrorKind::ConnectionReset);
        assert_eq!(bed.ending().await, ("CD".into(), "client_broke"));
    });
}

#[test]
fn silence_and_clients_that_do_not_take_end_a_session() {
    run(async {
        let (listener, address) = server().await;
        let mut site = site(vec![backend("b", &[address])], &[]);
        site.tunnel = SECOND / 5;
        let bed = Bed::start(site).await;
        let mut client = bed.connect().await;
        let _server = accept(&listener).await;
        assert_eq!(rest(&mut client).await.unwrap_err(), ErrorKind::ConnectionReset);
        assert_eq!(bed.ending().await, ("cD".into(), "silence"));
    });
    run(async {
        let (listener, address) = server().await;
        let mut site = site(vec![backend("b", &[address])], &[]);
        site.client = SECOND / 5;
        let bed = Bed::start(site).await;
        let client = bed.connect().await;
        let mut server = accept(&listener).await;
        // More than the buffers of two connections hold.
        let flood = async {
            let block = vec![7; 1 << 20];
            while server.write_all(&block).await.is_ok() {}
        };
        let (ending, ()) = tokio::join!(bed.ending(), flood);
        assert_eq!(ending, ("cD".into(), "client_stalled"));
        drop(client);
    });
}

#[test]
fn a_server_that_does_not_take_ends_a_session() {
    run(async {
        let (listener, address) = server().await;
        let mut slow = backend("b", &[address]);
        slow.server = SECOND / 5;
        let bed = Bed::start(site(vec![slow], &[])).await;
        let mut client = bed.connect().await;
        let _server = accept(&listener).await;
        let flood = async {
            let block = vec![7; 1 << 20];
            while client.write_all(&block).await.is_ok() {}
        };
        let (ending, ()) = tokio::join!(bed.ending(), flood);
        assert_eq!(ending, ("sD".into(), "server_stalled"));
    });
}

#[test]
fn a_dead_servers_sessions_are_reset_and_others_stay() {
    run(async {
        let (listener, address) = server().await;
        let backend = backend("b", &[address]);
        let endings = std::sync::Arc::clone(&backend.endings);
        let bed = Bed::start(site(vec![backend], &[])).await;
        let mut client = bed.connect().await;
        let mut server = accept(&listener).await;
        server.write_all(b"!").await.unwrap();
        client.read_u8().await.unwrap();
        endings.settle(|other| other != address.into());
        server.write_all(b"!").await.unwrap();
        client.read_u8().await.unwrap();
        endings.settle(|dead| dead == address.into());
        assert_eq!(rest(&mut client).await.unwrap_err(), ErrorKind::ConnectionReset);
        assert_eq!(bed.ending().await, ("DD".into(), "server_down"));
        // The server is back: new sessions are not the old ones.
        let mut client = bed.connect().await;
        accept(&listener).await.write_all(b"!").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'!');
    });
}

#[test]
fn a_stop_ends_sessions_in_every_phase() {
    run(async {
        let (bed, mut client, _server) = joined().await;
        bed.stop.cancel();
        assert_eq!(rest(&mut client).await.unwrap_err(), ErrorKind::ConnectionReset);
        assert_eq!(bed.ending().await, ("KD".into(), "stopped"));
        // One that has just come.
        drop(bed.connect().await);
        assert!(bed.ending().await.0.starts_with('K'));
    });
}

#[test]
fn connections_beyond_the_limit_are_reset() {
    run(async {
        let (listener, address) = server().await;
        let mut site = site(vec![backend("b", &[address])], &[]);
        site.limits = ConnectionLimits { total: 100, per_source: 1 };
        let bed = Bed::start(site).await;
        let first = bed.connect().await;
        let served = accept(&listener).await;
        let mut second = bed.connect().await;
        assert_eq!(rest(&mut second).await.unwrap_err(), ErrorKind::ConnectionReset);
        assert_eq!(bed.ending().await, ("PR".into(), "too_many_of_source"));
        drop((first, served));
        assert_eq!(bed.ending().await.0, "--");
        let _third = bed.connect().await;
        accept(&listener).await;
    });
}
