//! Cutting what is larger than the path carries, and joining it again (`docs/protocol/quic.md` §4).
//!
//! The path's size is found while the connection is in use, and it can shrink. Neither is a reason to lose a packet:
//! what does not fit travels in pieces. Pure; knows nothing of connections.

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};

/// First byte of a piece; whatever else begins a datagram passes as it is.
pub const PIECE_TYPE: u8 = 0x51;
/// Type, number of the whole, position and whether it is the last.
pub const PIECE_HEADER: usize = 4;
/// The bit of the position that marks the last piece.
const LAST: u8 = 0x80;
/// Pieces of one datagram: 65,535 bytes in pieces for the smallest path that QUIC allows.
const MAX_PIECES: usize = 64;
/// Datagrams whose pieces are not all there yet. Pieces follow each other closely; more than this under way at once are
/// a peer that sends halves. With 64 KiB each they hold 1 MiB at most.
const MAX_OPEN: usize = 16;

/// Cuts datagrams.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    number: u16,
}

impl Cutter {
    /// The pieces of `datagram`, none larger than `room`; `None` if it would take more than there may be.
    pub(crate) fn cut(&mut self, datagram: &[u8], room: usize) -> Option<Vec<Bytes>> {
        let each = room.checked_sub(PIECE_HEADER).filter(|each| *each > 0)?;
        let count = datagram.len().div_ceil(each);
        if count == 0 || count > MAX_PIECES {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        // Equal pieces: the last of a hundred bytes would be a packet for nothing much.
        let even = datagram.len().div_ceil(count);
        let pieces = datagram.chunks(even).enumerate().map(|(at, chunk)| {
            let is_last = (at + 1) * even >= datagram.len();
            let mut piece = BytesMut::with_capacity(PIECE_HEADER + chunk.len());
            piece.put_u8(PIECE_TYPE);
            piece.put_u16(self.number);
            piece.put_u8(at as u8 | if is_last { LAST } else { 0 });
            piece.put_slice(chunk);
            piece.freeze()
        });
        Some(pieces.collect())
    }
}

/// Joins pieces.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    open: VecDeque<Open>,
}

#[derive(Debug)]
struct Open {
    number: u16,
    pieces: Vec<Option<Bytes>>,
    /// How many there are, once the last one is known.
    count: Option<usize>,
}

/// What a piece led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// The last missing piece: the datagram.
    Whole(Vec<u8>),
    /// Others are missing. So many datagrams were given up for it.
    Waiting {
        /// Datagrams given up.
        given_up: u64,
    },
    /// It is no piece, or contradicts the others of its datagram.
    Malformed,
}

impl Joiner {
    /// Takes a datagram that begins with [`PIECE_TYPE`].
    pub(crate) fn take(&mut self, piece: &Bytes) -> Joined {
        let [PIECE_TYPE, high, low, position, ..] = piece[..] else {
            return Joined::Malformed;
        };
        let number = u16::from_be_bytes([high, low]);
        let (at, is_last) = (usize::from(position & !LAST), position & LAST != 0);
        if at >= MAX_PIECES || piece.len() == PIECE_HEADER {
            return Joined::Malformed;
        }
        let mut given_up = 0;
        let index = match self.open.iter().position(|open| open.number == number) {
            Some(index) => index,
            None => {
                if self.open.len() == MAX_OPEN {
                    self.open.pop_front();
                    given_up = 1;
                }
                self.open.push_back(Open {
                    number,
                    pieces: Vec::new(),
                    count: None,
                });
                self.open.len() - 1
            }
        };
        let open = &mut self.open[index];
        if !open.fits(at, is_last) {
            self.open.remove(index);
            return Joined::Malformed;
        }
        open.put(at, is_last, piece.slice(PIECE_HEADER..));
        match open.whole() {
            Some(whole) => {
                self.open.remove(index);
                Joined::Whole(whole)
            }
            None => Joined::Waiting { given_up },
        }
    }
}

impl Open {
    fn fits(&self, at: usize, is_last: bool) -> bool {
        let is_free = self.pieces.get(at).is_none_or(Option::is_none);
        let within = self.count.is_none_or(|count| at < count && !is_last);
        let is_end = !is_last || self.pieces.len() <= at + 1;
        is_free && within && is_end
    }

    fn put(&mut self, at: usize, is_last: bool, bytes: Bytes) {
        if self.pieces.len() <= at {
            self.pieces.resize(at + 1, None);
        }
        self.pieces[at] = Some(bytes);
        if is_last {
            self.count = Some(at + 1);
        }
    }

    fn whole(&self) -> Option<Vec<u8>> {
        if self.count != Some(self.pieces.len()) {
            return None;
        }
        let pieces: Option<Vec<&[u8]>> = self.pieces.iter().map(Option::as_deref).collect();
        Some(pieces?.concat())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_cut_is_joined_again_in_any_order(
            datagram in proptest::collection::vec(any::<u8>(), 1..9_000),
            room in 300_usize..1_500,
            seed in any::<u64>(),
        ) {
            let mut pieces = Cutter::default().cut(&datagram, room).unwrap();
            prop_assert!(pieces.iter().all(|piece| piece.len() <= room && piece[0] == PIECE_TYPE));
            shuffle(&mut pieces, seed);
            let mut joiner = Joiner::default();
            let last = pieces.pop().unwrap();
            for piece in &pieces {
                prop_assert_eq!(joiner.take(piece), Joined::Waiting { given_up: 0 });
            }
            prop_assert_eq!(joiner.take(&last), Joined::Whole(datagram));
            prop_assert!(joiner.open.is_empty());
        }

        #[test]
        fn no_stranger_makes_it_panic_or_grow(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..200),
        ) {
            let mut joiner = Joiner::default();
            for mut piece in pieces {
                if let Some(first) = piece.first_mut() {
                    *first = PIECE_TYPE;
                }
                joiner.take(&Bytes::from(piece));
                prop_assert!(joiner.open.len() <= MAX_OPEN);
                prop_assert!(joiner.open.iter().all(|open| open.pieces.len() <= MAX_PIECES));
            }
        }
    }

    #[test]
    fn pieces_of_several_datagrams_may_mix_and_a_lost_one_costs_its_datagram_only() {
        let (mut cutter, mut joiner) = (Cutter::default(), Joiner::default());
        let one = cutter.cut(&[1; 2_000], 1_100).unwrap();
        let two = cutter.cut(&[2; 2_000], 1_100).unwrap();
        assert_eq!((one.len(), one[0].len()), (2, 1_004), "equal pieces");
        assert_eq!(joiner.take(&one[0]), Joined::Waiting { given_up: 0 });
        assert_eq!(joiner.take(&two[0]), Joined::Waiting { given_up: 0 });
        assert_eq!(joiner.take(&two[1]), Joined::Whole(vec![2; 2_000]));
        // The second piece of the first is lost; the next sixteen halves push it out.
        let given_up: u64 = (0..MAX_OPEN)
            .map(|_| cutter.cut(&[3; 2_000], 1_100).unwrap())
            .map(|pieces| match joiner.take(&pieces[0]) {
                Joined::Waiting { given_up } => given_up,
                other => panic!("{other:?}"),
            })
            .sum();
        assert_eq!(given_up, 1);
    }

    #[test]
    fn contradictions_are_refused() {
        let mut joiner = Joiner::default();
        let piece = |position: u8, bytes: &[u8]| {
            Bytes::from([&[PIECE_TYPE, 0, 1, position][..], bytes].concat())
        };
        assert_eq!(joiner.take(&piece(1, b"")), Joined::Malformed);
        assert_eq!(joiner.take(&piece(0x40, b"x")), Joined::Malformed);
        assert_eq!(
            joiner.take(&Bytes::from_static(&[PIECE_TYPE, 0])),
            Joined::Malformed
        );
        joiner.take(&piece(0, b"x"));
        assert_eq!(joiner.take(&piece(0, b"x")), Joined::Malformed, "twice");
        joiner.take(&piece(2, b"x"));
        assert_eq!(
            joiner.take(&piece(LAST, b"x")),
            Joined::Malformed,
            "the last before others"
        );
        assert!(Cutter::default().cut(&[0; 100], PIECE_HEADER).is_none());
        assert!(
            Cutter::default().cut(&[0; 65_535], 1_000).is_none(),
            "more than 64"
        );
    }

    fn shuffle(pieces: &mut [Bytes], mut seed: u64) {
        for at in (1..pieces.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pieces.swap(at, (seed >> 33) as usize % (at + 1));
        }
    }
}
