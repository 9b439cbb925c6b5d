//! Cutting a run of datagrams into what the path carries, and joining it again (`docs/protocol/quic.md` §4).
//!
//! The path's size is found while the connection is in use, and it can shrink. Neither is a reason to lose a packet:
//! what does not fit travels in pieces. Equal datagrams that are sent together are cut as one run of bytes, so that
//! every piece but the last is full: a packet of the connection costs the same whether it is full or not. Small ones
//! share a piece for the same reason. Pure; knows nothing of connections.

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};

/// First byte of a piece; whatever else begins a datagram passes as it is.
pub const PIECE_TYPE: u8 = 0x51;
/// Type, number of the run and whether it is the last piece, offset, length of the datagrams.
pub const PIECE_HEADER: usize = 7;
/// The bit of the number that marks the last piece.
const LAST: u16 = 0x8000;
/// Bytes of a run: more than an offset can say is no run.
const MAX_RUN: usize = 65_535;
/// Datagrams of which not all is there yet. Pieces follow each other closely; more than this under way at once are
/// a peer that sends halves. With 64 KiB each they hold 1 MiB at most.
const MAX_OPEN: usize = 16;
/// Runs after which what is missing does not come any more; long before numbers repeat.
const FORGOTTEN_AFTER: u16 = 1024;

/// Equal datagrams, one after the other; the last may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) segment: usize,
}

impl<'a> Run<'a> {
    /// Every datagram by itself.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(self.segment)
    }
}

/// Cuts runs.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    number: u16,
}

impl Cutter {
    /// Whether a run is better sent in pieces when the path carries `room` bytes: its datagrams do not fit, or several
    /// fit at once, or one looks like a piece.
    pub(crate) fn is_for(run: Run<'_>, room: usize) -> bool {
        let fits = run.segment <= room;
        let share = run.bytes.len() > run.segment && run.segment * 2 + PIECE_HEADER <= room;
        let is_ambiguous = |datagram: &[u8]| datagram.first() == Some(&PIECE_TYPE);
        !fits || share || run.datagrams().any(is_ambiguous)
    }

    /// The pieces of a run, none larger than `room`; `None` if that is too little for any.
    pub(crate) fn cut(
        &mut self,
        run: Run<'_>,
        room: usize,
    ) -> Option<impl Iterator<Item = Bytes> + use<>> {
        let most = room.checked_sub(PIECE_HEADER).filter(|most| *most > 0)?;
        let total = run.bytes.len();
        if total > MAX_RUN {
            return None;
        }
        // What fits is not cut: the loss of a piece shall not cost a neighbour.
        let each = match most / run.segment {
            0 => most,
            whole => whole * run.segment,
        };
        self.number = self.number.wrapping_add(1) & !LAST;
        let mut all = BytesMut::with_capacity(total + total.div_ceil(each) * PIECE_HEADER);
        for (at, chunk) in run.bytes.chunks(each).enumerate() {
            let offset = at * each;
            let is_last = offset + chunk.len() == total;
            all.put_u8(PIECE_TYPE);
            all.put_u16(self.number | if is_last { LAST } else { 0 });
            all.put_u16(offset as u16);
            all.put_u16(run.segment as u16);
            all.put_slice(chunk);
        }
        let mut all = all.freeze();
        Some(std::iter::from_fn(move || {
            let length = all.len().min(PIECE_HEADER + each);
            (length > 0).then(|| all.split_to(length))
        }))
    }
}

/// Joins pieces.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    open: VecDeque<Open>,
    /// The memory of the last datagram that was joined.
    spare: Open,
}

/// A datagram that lies in several pieces.
#[derive(Debug, Default)]
struct Open {
    number: u16,
    /// Where it begins in its run.
    start: usize,
    bytes: Vec<u8>,
    /// What is there, in order and apart from each other.
    there: Vec<(usize, usize)>,
    /// How long it is, once that is known.
    length: Option<usize>,
}

/// What a piece says about itself.
struct Piece<'a> {
    number: u16,
    is_last: bool,
    offset: usize,
    segment: usize,
    bytes: &'a [u8],
}

impl<'a> Piece<'a> {
    fn read(datagram: &'a [u8]) -> Option<Self> {
        let (&[PIECE_TYPE, n, m, o, p, s, t], bytes) = datagram.split_first_chunk()? else {
            return None;
        };
        let number = u16::from_be_bytes([n, m]);
        let piece = Self {
            number: number & !LAST,
            is_last: number & LAST != 0,
            offset: usize::from(u16::from_be_bytes([o, p])),
            segment: usize::from(u16::from_be_bytes([s, t])),
            bytes,
        };
        let is_sane =
            piece.segment > 0 && !bytes.is_empty() && piece.offset + bytes.len() <= MAX_RUN;
        is_sane.then_some(piece)
    }
}

impl Joiner {
    /// Takes a datagram that begins with [`PIECE_TYPE`] and hands on what is whole, in order within the piece. Returns
    /// how many datagrams were given up, because others came or because pieces contradict each other.
    pub(crate) fn take(&mut self, datagram: &[u8], mut each: impl FnMut(Run<'_>)) -> u64 {
        let Some(piece) = Piece::read(datagram) else {
            return 1;
        };
        let mut given_up = 0;
        let (segment, end) = (piece.segment, piece.offset + piece.bytes.len());
        let mut at = piece.offset;
        while at < end {
            let start = at - at % segment;
            let here = &piece.bytes[at - piece.offset..];
            if at == start && (here.len() >= segment || piece.is_last) {
                let length = match piece.is_last {
                    true => here.len(),
                    false => here.len() - here.len() % segment,
                };
                each(Run {
                    bytes: &here[..length],
                    segment,
                });
                at += length;
                continue;
            }
            let part = &here[..here.len().min(start + segment - at)];
            at += part.len();
            let is_end = at == start + segment || (piece.is_last && at == end);
            given_up += self.put(
                piece.number,
                start,
                at - part.len(),
                part,
                is_end,
                &mut each,
            );
        }
        given_up
    }

    /// Puts a part of a datagram where it belongs; how many datagrams that cost.
    fn put(
        &mut self,
        number: u16,
        start: usize,
        at: usize,
        part: &[u8],
        is_end: bool,
        each: &mut impl FnMut(Run<'_>),
    ) -> u64 {
        let is_it = |open: &Open| open.number == number && open.start == start;
        let mut given_up = 0;
        // The latest is the likeliest.
        let index = match self.open.iter().rposition(is_it) {
            Some(index) => index,
            None => {
                given_up = self.make_room(number);
                self.open.push_back(Open {
                    number,
                    start,
                    ..std::mem::take(&mut self.spare)
                });
                self.open.len() - 1
            }
        };
        let open = &mut self.open[index];
        let is_whole = open.put(at - start, part, is_end);
        if is_whole == Some(false) {
            return given_up;
        }
        if let Some(mut done) = self.open.remove(index) {
            match is_whole {
                Some(_) => each(Run {
                    bytes: &done.bytes,
                    segment: done.bytes.len(),
                }),
                None => given_up += 1,
            }
            done.empty();
            self.spare = done;
        }
        given_up
    }

    /// Gives up what is not to be expected any more; how many datagrams that are.
    fn make_room(&mut self, number: u16) -> u64 {
        let mut given_up = 0;
        while let Some(oldest) = self.open.front() {
            let behind = number.wrapping_sub(oldest.number) & !LAST;
            let is_old = (FORGOTTEN_AFTER..LAST - FORGOTTEN_AFTER).contains(&behind);
            if self.open.len() < MAX_OPEN && !is_old {
                break;
            }
            self.open.pop_front();
            given_up += 1;
        }
        given_up
    }
}

impl Open {
    fn empty(&mut self) {
        self.bytes.clear();
        self.there.clear();
        self.length = None;
    }

    /// Puts a part in; whether all is there, `None` if the part contradicts what is there.
    fn put(&mut self, at: usize, part: &[u8], is_end: bool) -> Option<bool> {
        let end = at + part.len();
        let index = self.there.partition_point(|(from, _)| *from < at);
        let is_free = self.there.get(index).is_none_or(|(from, _)| end <= *from)
            && (index == 0 || self.there[index - 1].1 <= at);
        let is_within = self.length.is_none_or(|length| end <= length && !is_end);
        let is_beyond_all = !is_end || self.bytes.len() <= end;
        if !is_free || !is_within || !is_beyond_all {
            return None;
        }
        if is_end {
            self.length = Some(end);
        }
        if self.bytes.len() < at {
            self.bytes.resize(at, 0);
        }
        match self.bytes.len() == at {
            true => self.bytes.extend_from_slice(part),
            false => self.bytes[at..end].copy_from_slice(part),
        }
        self.note(index, at, end);
        Some(
            self.length.is_some()
                && self.there.len() == 1
                && self.there[0] == (0, self.bytes.len()),
        )
    }

    /// Notes that a range is there, as the `index`th or as a part of its neighbours.
    fn note(&mut self, index: usize, from: usize, to: usize) {
        let after = self.there.get(index).is_some_and(|next| next.0 == to);
        let before = index > 0 && self.there[index - 1].1 == from;
        match (before, after) {
            (true, true) => {
                self.there[index - 1].1 = self.there[index].1;
                self.there.remove(index);
            }
            (true, false) => self.there[index - 1].1 = to,
            (false, true) => self.there[index].0 = from,
            (false, false) => self.there.insert(index, (from, to)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_cut_is_joined_again_in_any_order(
            bytes in proptest::collection::vec(any::<u8>(), 1..20_000),
            segment in 1_usize..3_000,
            room in 300_usize..1_500,
            seed in any::<u64>(),
        ) {
            let run = Run { bytes: &bytes, segment };
            let mut pieces = cut(&mut Cutter::default(), run, room);
            prop_assert!(pieces.iter().all(|piece| piece.len() <= room && piece[0] == PIECE_TYPE));
            let mut expected: Vec<&[u8]> = run.datagrams().collect();
            let in_order = joined(&mut Joiner::default(), &pieces);
            prop_assert_eq!(in_order.0, 0);
            prop_assert_eq!(&in_order.1, &expected);
            // Out of order more may be open at once than there may be, unless few are cut.
            if expected.len() <= MAX_OPEN || segment + PIECE_HEADER <= room {
                shuffle(&mut pieces, seed);
                let mut joiner = Joiner::default();
                let (given_up, mut arrived) = joined(&mut joiner, &pieces);
                prop_assert_eq!(given_up, 0);
                prop_assert!(joiner.open.is_empty());
                arrived.sort();
                expected.sort();
                prop_assert_eq!(arrived, expected);
            }
        }

        #[test]
        fn a_lost_piece_costs_only_the_datagrams_that_lie_in_it(
            count in 2_usize..40,
            segment in 40_usize..3_000,
            lost in any::<proptest::sample::Index>(),
        ) {
            let bytes: Vec<u8> = (0..count * segment).map(|at| (at / segment) as u8).collect();
            prop_assume!(bytes.len() <= MAX_RUN);
            let run = Run { bytes: &bytes, segment };
            let mut pieces = cut(&mut Cutter::default(), run, 1_434);
            let each = pieces[0].len() - PIECE_HEADER;
            let lost = lost.index(pieces.len());
            pieces.remove(lost);
            let (from, to) = (lost * each, ((lost + 1) * each).min(bytes.len()));
            let spared = |index: &usize| (index + 1) * segment <= from || index * segment >= to;
            let expected: Vec<u8> = (0..count).filter(spared).map(|index| index as u8).collect();
            let arrived = joined(&mut Joiner::default(), &pieces).1;
            prop_assert!(arrived.iter().all(|datagram| datagram.len() == segment));
            let arrived: Vec<u8> = arrived.iter().map(|datagram| datagram[0]).collect();
            prop_assert_eq!(arrived, expected);
        }

        #[test]
        fn no_stranger_makes_it_panic_or_grow(
            pieces in proptest::collection::vec(
                (0_u16..4, any::<bool>(), 0_u16..200, 0_u16..100, 0_usize..80),
                0..300,
            ),
        ) {
            let mut joiner = Joiner::default();
            for (number, is_last, offset, segment, length) in pieces {
                let number = number | if is_last { LAST } else { 0 };
                joiner.take(&piece(number, offset, segment, &vec![1; length]), |run| {
                    assert!(!run.bytes.is_empty() && run.segment > 0);
                });
                prop_assert!(joiner.open.len() <= MAX_OPEN);
                prop_assert!(joiner.open.iter().all(|open| open.bytes.len() <= 100));
                prop_assert!(joiner.open.iter().all(|open| open.there.len() <= 50));
            }
        }
    }

    #[test]
    fn every_piece_of_large_datagrams_is_full_and_small_ones_share_pieces_uncut() {
        let lengths = |segment: usize, count: usize| -> Vec<usize> {
            let bytes = vec![7; segment * count];
            let run = Run {
                bytes: &bytes,
                segment,
            };
            assert!(Cutter::is_for(run, 1_434));
            let pieces = cut(&mut Cutter::default(), run, 1_434);
            pieces
                .iter()
                .map(|piece| piece.len() - PIECE_HEADER)
                .collect()
        };
        assert_eq!(lengths(1_452, 5), [1_427, 1_427, 1_427, 1_427, 1_427, 125]);
        assert_eq!(lengths(500, 5), [1_000, 1_000, 500]);
        assert_eq!(lengths(100, 16), [1_400, 200]);
    }

    #[test]
    fn what_fits_alone_goes_as_it_is_unless_it_looks_like_a_piece() {
        let is_for = |bytes: &[u8], segment| Cutter::is_for(Run { bytes, segment }, 1_434);
        assert!(!is_for(&[7; 1_434], 1_434));
        assert!(!is_for(&[7; 4_000], 1_000));
        assert!(!is_for(&[7; 100], 100));
        assert!(is_for(&[PIECE_TYPE; 100], 100));
        assert!(is_for(&[7; 1_435], 1_435));
    }

    #[test]
    fn pieces_of_several_runs_may_mix_and_old_ones_are_given_up_for_others() {
        let (mut cutter, mut joiner) = (Cutter::default(), Joiner::default());
        let run = |byte| vec![byte; 2_000];
        let halves = |cutter: &mut Cutter, byte| {
            let bytes = run(byte);
            let run = Run {
                bytes: &bytes,
                segment: 2_000,
            };
            cut(cutter, run, 1_100)
        };
        let (one, two) = (halves(&mut cutter, 1), halves(&mut cutter, 2));
        assert_eq!(
            joined(&mut joiner, &[one[0].clone(), two[0].clone()])
                .1
                .len(),
            0
        );
        assert_eq!(joined(&mut joiner, &two[1..]), (0, vec![run(2)]));
        // The second half of the first is lost; the next sixteen halves push it out.
        let given_up: u64 = (0..MAX_OPEN)
            .map(|_| joined(&mut joiner, &halves(&mut cutter, 3)[..1]).0)
            .sum();
        assert_eq!(given_up, 1);
        // What belongs to a number of long ago goes, so that nothing is joined with it when numbers repeat.
        cutter.number += FORGOTTEN_AFTER;
        let (given_up, _) = joined(&mut joiner, &halves(&mut cutter, 4)[..1]);
        assert_eq!((given_up, joiner.open.len()), (MAX_OPEN as u64, 1));
    }

    #[test]
    fn contradictions_are_refused() {
        let mut joiner = Joiner::default();
        let mut given_up = |bytes: &[u8]| joiner.take(bytes, |_| panic!("{bytes:?}"));
        assert_eq!(given_up(&piece(1, 0, 10, b"")), 1, "nothing in it");
        assert_eq!(given_up(&piece(1, 0, 0, b"x")), 1, "no length");
        assert_eq!(given_up(&piece(1, u16::MAX, 10, b"x")), 1, "beyond a run");
        assert_eq!(given_up(&[PIECE_TYPE, 0]), 1, "too short");
        assert_eq!(given_up(&piece(1, 0, 10, b"abc")), 0);
        assert_eq!(given_up(&piece(1, 2, 10, b"cd")), 1, "twice");
        assert_eq!(given_up(&piece(2, 5, 10, b"f")), 0);
        assert_eq!(
            given_up(&piece(2 | LAST, 3, 10, b"de")),
            1,
            "an end before others"
        );
        assert_eq!(given_up(&piece(3 | LAST, 3, 10, b"de")), 0);
        assert_eq!(given_up(&piece(3, 8, 10, b"i")), 1, "beyond the end");
        assert!(
            Cutter::default()
                .cut(
                    Run {
                        bytes: &[0; 100],
                        segment: 100
                    },
                    PIECE_HEADER
                )
                .is_none()
        );
    }

    fn piece(number: u16, offset: u16, segment: u16, bytes: &[u8]) -> Vec<u8> {
        let mut piece = vec![PIECE_TYPE];
        for field in [number, offset, segment] {
            piece.extend(field.to_be_bytes());
        }
        piece.extend(bytes);
        piece
    }

    fn cut(cutter: &mut Cutter, run: Run<'_>, room: usize) -> Vec<Bytes> {
        cutter.cut(run, room).unwrap().collect()
    }

    /// How many datagrams were given up, and those that came out.
    fn joined(joiner: &mut Joiner, pieces: &[Bytes]) -> (u64, Vec<Vec<u8>>) {
        let (mut given_up, mut whole) = (0, Vec::new());
        for piece in pieces {
            given_up += joiner.take(piece, |run| {
                whole.extend(run.datagrams().map(<[u8]>::to_vec));
            });
        }
        (given_up, whole)
    }

    fn shuffle(pieces: &mut [Bytes], mut seed: u64) {
        for at in (1..pieces.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pieces.swap(at, (seed >> 33) as usize % (at + 1));
        }
    }
}
