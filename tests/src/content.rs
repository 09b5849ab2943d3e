//! Content for bulk transfers: any length, every byte known to both ends, and its hash.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

/// Size of the repeated block. Each copy is stamped with its number, so that no two blocks
/// are alike and a lost, doubled or swapped one changes the hash.
const BLOCK_BYTES: usize = 64 * 1024;

/// Content of a given length, to be read once.
#[derive(Debug)]
pub struct Content {
    block: Vec<u8>,
    position: u64,
    length: u64,
}

impl Content {
    /// Content of `length` bytes.
    #[must_use]
    pub fn new(length: u64) -> Self {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        while block.len() < BLOCK_BYTES {
            // xorshift64: cheap, and no pattern a checksum could be blind to.
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            block.extend_from_slice(&seed.to_ne_bytes());
        }
        Self { block, position: 0, length }
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let number = self.position / BLOCK_BYTES as u64;
        let within =
            usize::try_from(self.position % BLOCK_BYTES as u64).map_err(io::Error::other)?;
        let left = usize::try_from(self.length - self.position).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(BLOCK_BYTES - within).min(left);
        for (place, byte) in self.block.iter_mut().zip(number.to_be_bytes()) {
            *place = byte;
        }
        let mut part = self.block.get(within..within + wanted).unwrap_or_default();
        let copied = part.read(buffer)?;
        self.position += copied as u64;
        Ok(copied)
    }
}

/// Length and SHA-256 of what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Fingerprint {
    /// Reads to the end.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn of(reader: &mut impl Read) -> io::Result<Self> {
        let mut hash = Hashing { hasher: Sha256::new(), bytes: 0 };
        io::copy(reader, &mut hash)?;
        let sha256 = hash.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { bytes: hash.bytes, sha256 })
    }
}

struct Hashing {
    hasher: Sha256,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.hasher.update(buffer);
        self.bytes += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_has_its_length_and_does_not_depend_on_how_it_is_read() {
        let mut whole = Vec::new();
        Content::new(200_001).read_to_end(&mut whole).unwrap();
        let mut pieces = Vec::new();
        let mut content = Content::new(200_001);
        let mut buffer = [0; 777];
        loop {
            let read = content.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            pieces.extend_from_slice(&buffer[..read]);
        }
        assert_eq!(whole.len(), 200_001);
        assert!(whole == pieces);
    }

    #[test]
    fn swapped_blocks_change_the_fingerprint() {
        let mut bytes = Vec::new();
        Content::new(2 * BLOCK_BYTES as u64).read_to_end(&mut bytes).unwrap();
        let straight = Fingerprint::of(&mut bytes.as_slice()).unwrap();
        bytes.rotate_left(BLOCK_BYTES);
        let swapped = Fingerprint::of(&mut bytes.as_slice()).unwrap();
        assert_eq!(straight.bytes, swapped.bytes);
        assert_ne!(straight.sha256, swapped.sha256);
    }
}
