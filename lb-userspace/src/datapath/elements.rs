//! Whole maps at once: a call of the kernel for a thousand entries in place of one for each.
//! The control loop compares all entries of the maps whenever something changes.

use std::io;

use aya::Pod;

use super::{batch::BatchMap, error::MapAccessError};

/// What a kernel says whose maps of a type have no batches (`ENOTSUPP` of `include/linux/errno.h`,
/// which no C library knows).
const ENOTSUPP: i32 = 524;

impl<K: Pod, V: Pod> BatchMap<K, V> {
    /// Every entry, in no order.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn entries(&self) -> Result<Vec<(K, V)>, MapAccessError> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut entries = Vec::new();
        let mut batches = self.batches();
        while batches.next_into(&mut keys, &mut values)? {
            entries.extend(keys.iter().copied().zip(values.iter().copied()));
        }
        Ok(entries)
    }
}

impl<V: Pod> BatchMap<u32, V> {
    /// What is at each index of an array that has something there: all, unless it is one of maps.
    /// In ascending order.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn elements(&self) -> Result<Vec<(u32, V)>, MapAccessError> {
        match self.entries() {
            // Arrays of maps have batches since Linux 5.13.
            Err(MapAccessError::Call { source, .. }) if lacks_batches(&source) => {
                self.elements_one_by_one()
            }
            read => read,
        }
    }

    /// The same, with a call for each.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn elements_one_by_one(&self) -> Result<Vec<(u32, V)>, MapAccessError> {
        let indices = 0..self.capacity();
        indices
            .filter_map(|index| Some(self.get(&index).transpose()?.map(|it| (index, it))))
            .collect()
    }

    /// The values of an array, by index.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn values(&self) -> Result<Vec<V>, MapAccessError> {
        Ok(self.elements()?.into_iter().map(|(_, value)| value).collect())
    }
}

fn lacks_batches(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EOPNOTSUPP | libc::EINVAL))
}
