//! A set of short byte strings, kept close together.
//!
//! The keys of the rows of an answer are short, many, and alike in length; a hash table of owned strings spends
//! most of its memory on pointers, slack and allocations. Here the strings lie one after the other in chunks and
//! the table holds where: beside its bytes and a length, a string takes five bytes of table, at most 11 right after the
//! table has grown.
//!
//! Removed strings leave holes; when half is holes the rest moves together. It must not know what the bytes mean.

use std::hash::Hasher;

use hashbrown::HashTable;
use rustc_hash::FxHasher;

/// Bytes of a chunk: small beside a large set, large beside a string; and a position in a chunk takes 16 bits.
const CHUNK_BYTES: usize = 1 << 16;

/// A set of byte strings. Holds up to 2^32 bytes in all.
#[derive(Clone, Debug, Default)]
pub struct ByteSet {
    /// Where the strings are: chunk number above, position in the chunk in the lower 16 bits.
    places: HashTable<u32>,
    /// Strings, each behind its length. A string too long for a chunk has one of its own.
    chunks: Vec<Vec<u8>>,
    used: usize,
    garbage: usize,
}

/// Tells which strings of a set were met: a bit for each place of the table.
#[derive(Debug)]
pub struct Meeting<'s> {
    set: &'s ByteSet,
    met: Vec<u64>,
}

impl Meeting<'_> {
    /// Whether a string is in the set, and notes that it was met.
    pub fn meets(&mut self, bytes: &[u8]) -> bool {
        let chunks = &self.set.chunks;
        let found = self.set.places.find_bucket_index(hash(bytes), |&place| read(chunks, place) == bytes);
        if let Some(bucket) = found {
            self.met[bucket / 64] |= 1 << (bucket % 64);
        }
        found.is_some()
    }

    /// The strings that were not met, in no order.
    pub fn others(&self) -> impl Iterator<Item = &[u8]> {
        let buckets =
            (0..self.set.places.num_buckets()).filter(|bucket| self.met[bucket / 64] >> (bucket % 64) & 1 == 0);
        buckets.filter_map(|bucket| self.set.places.get_bucket(bucket)).map(|&place| read(&self.set.chunks, place))
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

impl ByteSet {
    /// How many strings are in.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether a string is in.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.places.find(hash(bytes), |&place| read(&self.chunks, place) == bytes).is_some()
    }

    /// Adds a string; true if it was not in.
    pub fn insert(&mut self, bytes: &[u8]) -> bool {
        if self.contains(bytes) {
            return false;
        }
        let place = self.append(bytes);
        let chunks = &self.chunks;
        self.places.insert_unique(hash(bytes), place, |&place| hash(read(chunks, place)));
        true
    }

    /// Takes a string out; true if it was in.
    pub fn remove(&mut self, bytes: &[u8]) -> bool {
        let chunks = &self.chunks;
        let Ok(entry) = self.places.find_entry(hash(bytes), |&place| read(chunks, place) == bytes) else {
            return false;
        };
        entry.remove();
        self.garbage += bytes.len() + length_bytes(bytes.len());
        if self.garbage > CHUNK_BYTES && self.garbage * 2 > self.used {
            let mut compact = ByteSet::default();
            self.iter().for_each(|bytes| {
                compact.insert(bytes);
            });
            *self = compact;
        }
        true
    }

    /// To find out which strings are among others.
    pub fn meeting(&self) -> Meeting<'_> {
        Meeting { set: self, met: vec![0; self.places.num_buckets().div_ceil(64)] }
    }

    /// The strings, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.places.iter().map(|&place| read(&self.chunks, place))
    }

    /// Bytes that it takes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let chunks =
            self.chunks.iter().map(Vec::capacity).sum::<usize>() + self.chunks.capacity() * size_of::<Vec<u8>>();
        self.places.allocation_size() + chunks
    }

    fn append(&mut self, bytes: &[u8]) -> u32 {
        let wanted = bytes.len() + length_bytes(bytes.len());
        self.used += wanted;
        if self.chunks.last().is_none_or(|chunk| chunk.len() + wanted > CHUNK_BYTES) {
            // The first chunk grows from nothing, so that a small set stays small.
            let capacity = if self.chunks.is_empty() { wanted } else { wanted.max(CHUNK_BYTES) };
            self.chunks.push(Vec::with_capacity(capacity));
        }
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        let place = u32::try_from(number * CHUNK_BYTES + chunk.len()).expect("keys of one set take less than 4 GB");
        let mut length = bytes.len();
        while length > 0x7F {
            chunk.push(length as u8 | 0x80);
            length >>= 7;
        }
        chunk.push(length as u8);
        chunk.extend_from_slice(bytes);
        place
    }
}

/// How many bytes a length takes: seven bits in each.
fn length_bytes(length: usize) -> usize {
    (usize::BITS - length.max(1).leading_zeros()).div_ceil(7) as usize
}

fn read(chunks: &[Vec<u8>], place: u32) -> &[u8] {
    let chunk = &chunks[place as usize / CHUNK_BYTES];
    let mut position = place as usize % CHUNK_BYTES;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = chunk[position];
        position += 1;
        length |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return &chunk[position..position + length];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn it_is_a_set() {
        let mut set = ByteSet::default();
        let mut model: HashSet<Vec<u8>> = HashSet::new();
        let mut random: u64 = 7;
        for round in 0..200_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (random >> 40) % 5_000;
            let bytes = match number % 500 {
                0 => vec![b'x'; number as usize * 40],
                _ => format!("key {number}").into_bytes(),
            };
            if (random >> 20).is_multiple_of(3) {
                assert_eq!(set.remove(&bytes), model.remove(&bytes), "round {round}");
            } else {
                assert_eq!(set.insert(&bytes), model.insert(bytes.clone()), "round {round}");
            }
            assert_eq!(set.len(), model.len());
        }
        assert_eq!(set.iter().map(<[u8]>::to_vec).collect::<HashSet<_>>(), model);
        assert!(model.iter().all(|bytes| set.contains(bytes)));
        assert!(set.used <= 3 * model.iter().map(Vec::len).sum::<usize>() + 4 * CHUNK_BYTES, "holes are given back");
    }

    #[test]
    fn what_was_not_met_is_told() {
        for count in [0, 1, 3, 100, 5_000] {
            let mut set = ByteSet::default();
            (0..count).for_each(|number| assert!(set.insert(format!("key {number}").as_bytes())));
            let mut meeting = set.meeting();
            for number in (0..2 * count).step_by(3) {
                assert_eq!(meeting.meets(format!("key {number}").as_bytes()), number < count);
            }
            let others: HashSet<&[u8]> = meeting.others().collect();
            assert_eq!(others.len(), meeting.others().count(), "each is told once");
            let expected: Vec<_> = (0..count).filter(|number| number % 3 != 0).map(|n| format!("key {n}")).collect();
            assert_eq!(others, expected.iter().map(String::as_bytes).collect());
        }
    }

    #[test]
    fn a_short_key_takes_few_bytes() {
        for count in [1_000, 100_000, 1_000_000, 1_048_577] {
            let mut set = ByteSet::default();
            (0..count).for_each(|number| assert!(set.insert(format!("\u{6}i{number:06}\0").as_bytes())));
            let each = set.heap_bytes() as f64 / f64::from(count);
            assert!(each < 24.0, "{each} bytes for each of {count}");
        }
    }
}
