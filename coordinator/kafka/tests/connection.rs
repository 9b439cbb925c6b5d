//! Brokers that are none, and brokers that talk nonsense: each gets a clear error, none a panic or a wait without end.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};

use wattle_api::stream::Kafka;
use wattle_kafka::{Admin, ClusterError, HostSecrets};

#[test]
fn what_is_no_broker_is_told_apart() {
    let cases: [(&[u8], &str); 5] = [
        (b"", "broke off"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is this a Kafka port"),
        (b"\xff\xff\xff\xff", "is this a Kafka port"),
        // A whole answer to another request.
        (
            b"\0\0\0\x0a\0\0\0\x07\0\0\0\0\0\0",
            "belongs to another request",
        ),
        // An answer that ends amid its list.
        (
            b"\0\0\0\x0a\0\0\0\0\0\0\0\0\0\x09",
            "does not speak as expected",
        ),
    ];
    for (answer, words) in cases {
        let error = refused_by(vec![answer.to_vec()]);
        assert!(error.to_string().contains(words), "{answer:?}: {error}");
    }
}

#[test]
fn a_broker_without_the_requests_that_we_need_is_too_old() {
    // It can ask for its versions (18) and nothing else.
    let able = b"\0\0\0\x10\0\0\0\0\0\0\0\0\0\x01\0\x12\0\0\0\x04";
    let broker = serve(vec![able.to_vec()]);
    let kafka = Kafka::plaintext(&broker);
    let mut admin = Admin::connect(&kafka, &HostSecrets).unwrap();
    let error = admin.observe(&wattle_kafka::Wanted::default()).unwrap_err();
    assert!(
        error.to_string().contains("Kafka 2.7 is the oldest"),
        "{error}"
    );
}

#[test]
fn the_next_broker_is_asked_when_one_is_away() {
    let able = b"\0\0\0\x10\0\0\0\0\0\0\0\0\0\x01\0\x12\0\0\0\x04";
    let broker = serve(vec![able.to_vec()]);
    let mut kafka = Kafka::plaintext(&broker);
    kafka.brokers.insert(0, unused());
    assert!(Admin::connect(&kafka, &HostSecrets).is_ok());
    kafka.brokers.pop();
    let error = Admin::connect(&kafka, &HostSecrets).err().unwrap();
    assert!(matches!(error, ClusterError::Unreachable(_)), "{error}");
    assert!(error.to_string().contains(&kafka.brokers[0]), "{error}");
}

fn refused_by(answers: Vec<Vec<u8>>) -> ClusterError {
    let kafka = Kafka::plaintext(&serve(answers));
    Admin::connect(&kafka, &HostSecrets).err().unwrap()
}

/// A server that gives one answer after the other to whatever comes, then hangs up. Returns its address.
fn serve(answers: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for answer in answers {
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    address
}

/// An address at which nobody listens.
fn unused() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}
