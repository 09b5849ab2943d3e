//! Many map entries in one system call: `BPF_MAP_LOOKUP_BATCH`, `BPF_MAP_UPDATE_BATCH` and
//! `BPF_MAP_DELETE_BATCH`, which aya 0.14 lacks; and single entries of the same maps.
//!
//! Follows `generic_map_*_batch` in `kernel/bpf/syscall.c` and
//! `__htab_map_lookup_and_delete_batch` in `kernel/bpf/hashtab.c`. Not for per-CPU maps,
//! whose values have another size in user space.

use std::{
    io,
    marker::PhantomData,
    mem::{MaybeUninit, size_of, zeroed},
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{Pod, maps::MapData};
use aya_obj::generated::{bpf_attr, bpf_cmd};

use super::error::MapAccessError;

/// Entries of one call at most, unless one hash bucket holds more. 1024 entries of the
/// flow tables take half a millisecond; more make the worst call longer and the sum no
/// shorter.
pub const BATCH: usize = 1024;

/// A map with keys `K` and values `V`, for access in batches.
pub struct BatchMap<K, V> {
    name: &'static str,
    data: MapData,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Pod, V: Pod> BatchMap<K, V> {
    /// Takes a map that is not per-CPU.
    ///
    /// # Errors
    /// If its keys or values have other sizes than `K` and `V`.
    pub fn new(name: &'static str, data: MapData) -> Result<Self, MapAccessError> {
        let info = data.info().map_err(|source| MapAccessError::Access {
            action: "inspect",
            map: name,
            source,
        })?;
        let (key, value) = (info.key_size(), info.value_size());
        if key as usize != size_of::<K>() || value as usize != size_of::<V>() {
            return Err(MapAccessError::Layout {
                map: name,
                key,
                value,
                expected_key: size_of::<K>(),
                expected_value: size_of::<V>(),
            });
        }
        Ok(Self { name, data, types: PhantomData })
    }

    /// Gives the map back.
    pub fn into_data(self) -> MapData {
        self.data
    }

    /// The map's capacity in entries; 0 if the kernel does not say.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.data.info().map_or(0, |info| info.max_entries())
    }

    /// Reads one entry.
    ///
    /// # Errors
    /// If the kernel refuses; a key that is not in the map is not an error.
    pub fn get(&self, key: &K) -> Result<Option<V>, MapAccessError> {
        let mut value = MaybeUninit::<V>::uninit();
        // SAFETY: key and value have the sizes that `new` compared with the map's, and the
        // kernel writes to the value alone.
        let result = unsafe {
            let command = bpf_cmd::BPF_MAP_LOOKUP_ELEM;
            element_call(&self.data, command, (&raw const *key) as u64, value.as_mut_ptr() as u64)
        };
        match result {
            // SAFETY: the kernel wrote the whole value, and every bit pattern of a `Pod` is
            // valid.
            Ok(()) => Ok(Some(unsafe { value.assume_init() })),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(source) => Err(self.failed("read", source)),
        }
    }

    /// Deletes one entry; false if it was not there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&self, key: &K) -> Result<bool, MapAccessError> {
        // SAFETY: the key has the size that `new` compared with the map's and the kernel
        // only reads it; a deletion has no value.
        let result = unsafe {
            let key = (&raw const *key) as u64;
            element_call(&self.data, bpf_cmd::BPF_MAP_DELETE_ELEM, key, 0)
        };
        was_there(result).map_err(|source| self.failed("delete from", source))
    }

    /// Walks the map from its start, [`BATCH`] entries a step. Entries inserted or deleted
    /// during the walk may or may not be seen; others are seen once.
    pub fn batches(&self) -> Batches<'_, K, V> {
        Batches { map: self, position: [0; 8], started: false, finished: false, room: BATCH }
    }

    /// Writes `values[i]` at `keys[i]`, replacing what is there.
    ///
    /// # Errors
    /// If the kernel refuses an entry; those before it are written.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn update(&self, keys: &[K], values: &[V]) -> Result<(), MapAccessError> {
        assert_eq!(keys.len(), values.len(), "every key has a value");
        for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
            let mut count = length(keys);
            let (key, value) = (address(keys), address(values));
            // SAFETY: `keys` and `values` hold `count` entries of the sizes that `new`
            // compared with the map's, and the kernel only reads them.
            unsafe { self.call(bpf_cmd::BPF_MAP_UPDATE_BATCH, None, key, value, &mut count) }
                .map_err(|source| self.failed("write", source))?;
        }
        Ok(())
    }

    /// Deletes entries; how many were there.
    ///
    /// # Errors
    /// If the kernel refuses; a key that is not in the map is not an error.
    pub fn delete(&self, keys: &[K]) -> Result<usize, MapAccessError> {
        let mut deleted = 0;
        let mut rest = keys;
        while !rest.is_empty() {
            let part = rest.get(..BATCH).unwrap_or(rest);
            let mut count = length(part);
            // SAFETY: `part` holds `count` keys of the size that `new` compared with the
            // map's; the kernel only reads them, and no values are passed.
            let result = unsafe {
                self.call(bpf_cmd::BPF_MAP_DELETE_BATCH, None, address(part), 0, &mut count)
            };
            let done = count as usize;
            deleted += done;
            let skipped = match result {
                Ok(()) => 0,
                // It stops at a key that is not there; go on behind it.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => 1,
                Err(source) => return Err(self.failed("delete from", source)),
            };
            rest = rest.get(done + skipped..).unwrap_or_default();
        }
        Ok(deleted)
    }

    fn failed(&self, action: &'static str, source: io::Error) -> MapAccessError {
        // A trie says that there is no space left, others that there is too much.
        if matches!(source.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) {
            return MapAccessError::Full { map: self.name, capacity: self.capacity() };
        }
        MapAccessError::Call { action, map: self.name, source }
    }

    /// One call of `bpf(2)`. `position` is where to go on and where to store how far the
    /// call came. On return `count` is the number of entries done.
    ///
    /// # Safety
    /// `keys` and `values` are addresses of at least `count` keys and values of the map's
    /// sizes, writable if `command` reads the map; `values` may be 0 for a deletion.
    unsafe fn call(
        &self,
        command: bpf_cmd,
        position: Option<(u64, u64)>,
        keys: u64,
        values: u64,
        count: &mut u32,
    ) -> io::Result<()> {
        // SAFETY: `bpf_attr` is a union of plain integers; the kernel wants it zeroed.
        let mut attribute: bpf_attr = unsafe { zeroed() };
        let (before, after) = position.unwrap_or_default();
        attribute.batch.map_fd = self.data.fd().as_fd().as_raw_fd().cast_unsigned();
        attribute.batch.keys = keys;
        attribute.batch.values = values;
        attribute.batch.count = *count;
        attribute.batch.in_batch = before;
        attribute.batch.out_batch = after;
        // SAFETY: `attribute` is a valid `bpf_attr` for a batch command and its pointers
        // hold what this function's contract says.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, command as u32, &raw mut attribute, size_of::<bpf_attr>())
        };
        let error = io::Error::last_os_error();
        // SAFETY: the kernel and the lines above wrote this variant of the union.
        *count = unsafe { attribute.batch.count };
        if result < 0 { Err(error) } else { Ok(()) }
    }
}

/// A walk over a map; see [`BatchMap::batches`].
pub struct Batches<'a, K, V> {
    map: &'a BatchMap<K, V>,
    /// A bucket's number or a key, whichever the map type uses; keys fit by an assertion.
    position: [u64; 8],
    started: bool,
    finished: bool,
    room: usize,
}

impl<K: Pod, V: Pod> Batches<'_, K, V> {
    const POSITION_FITS: () = assert!(size_of::<K>() <= size_of::<[u64; 8]>());

    /// Reads the next entries into `keys` and `values`, which it clears first; false at
    /// the end of the map, when both are empty.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn next_into(
        &mut self,
        keys: &mut Vec<K>,
        values: &mut Vec<V>,
    ) -> Result<bool, MapAccessError> {
        const { Self::POSITION_FITS };
        loop {
            keys.clear();
            values.clear();
            if self.finished {
                return Ok(false);
            }
            keys.reserve(self.room);
            values.reserve(self.room);
            let mut after = self.position;
            let before = if self.started { (&raw const self.position) as u64 } else { 0 };
            let mut count = u32::try_from(self.room).unwrap_or(u32::MAX);
            // SAFETY: both vectors have room for `self.room` entries of the sizes that
            // `BatchMap::new` compared with the map's; `before` and `after` point to 64
            // bytes that live past the call, and keys are no longer than that.
            let result = unsafe {
                self.map.call(
                    bpf_cmd::BPF_MAP_LOOKUP_BATCH,
                    Some((before, (&raw mut after) as u64)),
                    keys.as_mut_ptr() as u64,
                    values.as_mut_ptr() as u64,
                    &mut count,
                )
            };
            match result {
                Ok(()) => {}
                // The last part; what was read counts.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.finished = true,
                // The next bucket holds more entries than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    self.room = self.room.saturating_mul(2);
                    continue;
                }
                Err(source) => return Err(self.map.failed("read", source)),
            }
            self.position = after;
            self.started = true;
            self.room = BATCH;
            let read = (count as usize).min(keys.capacity()).min(values.capacity());
            // SAFETY: the kernel wrote `count` entries to both, every bit pattern of a
            // `Pod` is valid, and `read` is within both capacities.
            unsafe {
                keys.set_len(read);
                values.set_len(read);
            }
            if read > 0 {
                return Ok(true);
            }
        }
    }
}

/// Deletes one entry of a map whose keys are `K`; false if it was not there.
///
/// # Errors
/// If the key's size is not the map's, or the kernel refuses.
pub fn delete_one<K: Pod>(data: &MapData, key: &K) -> io::Result<bool> {
    let size = data.info().map_err(io::Error::other)?.key_size() as usize;
    if size != size_of::<K>() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the key has the map's key size and the kernel only reads it; a deletion has
    // no value.
    let result =
        unsafe { element_call(data, bpf_cmd::BPF_MAP_DELETE_ELEM, (&raw const *key) as u64, 0) };
    was_there(result)
}

/// Lets nobody write to a map from user space any more, for as long as it exists
/// (`BPF_MAP_FREEZE`).
///
/// # Errors
/// If the kernel refuses.
pub fn freeze(data: &MapData) -> io::Result<()> {
    // SAFETY: the command reads the map's descriptor alone.
    unsafe { element_call(data, bpf_cmd::BPF_MAP_FREEZE, 0, 0) }
}

/// The first four bytes of an element of an array, whatever the rest of it is.
///
/// # Errors
/// If the elements are shorter, there is none of this index, or the kernel refuses.
pub fn word(data: &MapData, index: u32) -> io::Result<u32> {
    let info = data.info().map_err(io::Error::other)?;
    if info.key_size() as usize != size_of::<u32>() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut value = vec![0_u8; info.value_size() as usize];
    // SAFETY: the key has the map's key size, and the value has room for the map's.
    unsafe {
        let (key, value) = ((&raw const index) as u64, value.as_mut_ptr() as u64);
        element_call(data, bpf_cmd::BPF_MAP_LOOKUP_ELEM, key, value)?;
    }
    let word = value.first_chunk().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok(u32::from_ne_bytes(*word))
}

fn was_there(deleted: io::Result<()>) -> io::Result<bool> {
    match deleted {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// One call of `bpf(2)` about one entry.
///
/// # Safety
/// `key` is the address of a key of the map's size; `value`, if `command` has one, that of
/// a value of the map's size, writable if `command` reads the map.
unsafe fn element_call(data: &MapData, command: bpf_cmd, key: u64, value: u64) -> io::Result<()> {
    // SAFETY: `bpf_attr` is a union of plain integers; the kernel wants it zeroed.
    let mut attribute: bpf_attr = unsafe { zeroed() };
    attribute.__bindgen_anon_2.map_fd = data.fd().as_fd().as_raw_fd().cast_unsigned();
    attribute.__bindgen_anon_2.key = key;
    attribute.__bindgen_anon_2.__bindgen_anon_1.value = value;
    // SAFETY: `attribute` is valid for this command and its pointers hold what this
    // function's contract says.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as u32, &raw mut attribute, size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The bytes of values, as maps and packets hold them.
#[must_use]
pub const fn bytes_of<T: Pod>(values: &[T]) -> &[u8] {
    // SAFETY: a `Pod` is its bytes, all of them written, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn length<T>(slice: &[T]) -> u32 {
    u32::try_from(slice.len()).unwrap_or(u32::MAX)
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr() as u64
}
