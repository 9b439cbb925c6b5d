//! A relay that holds everything a relay holds, its own session and link key with the destination included, and is no
//! friend: what it changes or says twice reaches nobody (`docs/protocol/relay-frame.md`).

use std::sync::Arc;

use wattle_dataplane::DropReason;
use wattle_model::Micros;
use wattle_tunnel::{KeyBytes, LinkKeys, Local, Offer, Outcome, Rekey, Session};
use wattle_wire::control::{Control, ENVELOPE_LENGTH, wrap};
use wattle_wire::frame::{FRAME_TYPE, HEADER_LENGTH, Header, MAX_HOPS, Waypoints};

use crate::wire::{self, Net, address, packet, packet_with};
use crate::{ALL, SECOND, chain};

#[test]
fn a_relay_that_changes_or_repeats_what_it_carries_is_found_out_by_the_destination() {
    for cipher in ALL {
        let mut net = chain(cipher);
        net.send(0, &packet(0, 2, b"first"));
        net.run(SECOND);
        let mut traitor = Traitor::in_place_of_the_relay(&mut net);

        let withheld = net.withheld(b"second");
        let mut changed = withheld.clone();
        changed[20] ^= 1;
        traitor.forward(&mut net, &changed);
        assert_eq!(net.dropped(2, DropReason::Unauthentic), 1, "{cipher:?}");
        assert_eq!(net.delivered(2).len(), 1, "{cipher:?}");

        traitor.forward(&mut net, &withheld);
        let second = [packet_with(0, 2, 63, b"second")];
        assert_eq!(net.delivered(2)[1..], second, "{cipher:?}");
        traitor.forward(&mut net, &withheld);
        assert_eq!(net.dropped(2, DropReason::Replayed), 1, "{cipher:?}");
        assert_eq!(net.delivered(2)[1..], second, "{cipher:?}");
        assert_eq!(net.drops(2), 2, "its headers were in order: {cipher:?}");
    }
}

/// Node 1 of the chain in other hands.
struct Traitor {
    session: Session,
    keys: LinkKeys,
}

impl Traitor {
    /// Makes a session with node 2 as node 1 would, and offers it a link key.
    fn in_place_of_the_relay(net: &mut Net) -> Self {
        let local = Arc::new(Local::new(wire::secret(1), net.cipher(1)));
        let mut session = Session::new(&local, net.key(2), 0x00ba_dbad, Rekey::Ours);
        let mut buffer = [0; 2_048];
        let length = session
            .initiate(net.now(), &mut buffer)
            .expect("the buffer is long enough");
        let answers = net.inject(address(1), 2, &buffer[..length]);
        let answer = answers
            .iter()
            .find(|bytes| bytes[0] == 2)
            .expect("node 2 answers");
        let opened = session.open(net.now(), None, answer, &mut buffer);
        let Outcome::Reply(length) = opened.outcome else {
            panic!("{opened:?}")
        };
        net.inject(address(1), 2, &buffer[..length]);
        let mut traitor = Self {
            session,
            keys: LinkKeys::default(),
        };
        traitor.offer_key(net);
        traitor
    }

    fn offer_key(&mut self, net: &mut Net) {
        let offer = self
            .keys
            .handle_timeout(net.now(), || KeyBytes::new([9; 16]));
        let Offer::Send(message @ Control::LinkKey(_)) = offer else {
            panic!("no key to offer");
        };
        let (mut content, mut sealed) = ([0; 256], [0; 300]);
        let message_bytes = message.to_bytes();
        let length =
            wrap(net.id(1), net.id(2), &message_bytes, &mut content).expect("a short message");
        assert_eq!(length, ENVELOPE_LENGTH + message_bytes.len());
        let length = self
            .session
            .seal(&mut content, length, 1_360, &mut sealed)
            .expect("the session is usable");
        net.inject(address(1), 2, &sealed[..length]);
        let Control::LinkKey(key) = message else {
            return;
        };
        self.keys.acknowledged(net.now(), key.key_id);
    }

    /// Hands a message of node 0 to node 2 under a fresh header.
    fn forward(&mut self, net: &mut Net, message: &[u8]) {
        let header = Header {
            destination: net.id(2),
            source: net.id(0),
            hop_limit: MAX_HOPS - 1,
            class_priority: 0,
            precedence_weight: 0,
            flow: 1,
            lane: 0,
            detours: 0,
            waypoints: Waypoints::NONE,
        };
        let mut frame = [&[0; HEADER_LENGTH], message].concat();
        assert!(self.keys.seal(&header, &mut frame));
        net.inject(address(1), 2, &frame);
    }
}

impl Net {
    /// The sealed message of a packet from node 0 to node 2 that the relay has got and node 2 has not.
    fn withheld(&mut self, payload: &[u8]) -> Vec<u8> {
        self.watch();
        self.cut(1, 2);
        self.send(0, &packet(0, 2, payload));
        self.run(Micros::from_millis(5));
        let frames = self.seen().filter(|(to, bytes)| {
            *to == address(2).into() && bytes[0] == FRAME_TYPE && bytes.len() > HEADER_LENGTH
        });
        let (_, frame) = frames.last().expect("the relay has sealed it anew");
        frame[HEADER_LENGTH..].to_vec()
    }
}
