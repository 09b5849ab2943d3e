//! `ACCESS4` and `ACCESS6` in batches: a list may have a hundred thousand networks.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::{
    abi::map,
    access::{AccessKey, AccessKey4, AccessKey6, AccessRule, SCOPE_BITS},
};

use super::{
    batch::BatchMap,
    error::{DatapathError, MapAccessError},
    maps::Source,
};
use crate::model::access::Prefix;

/// The tries of sources.
pub(crate) struct AccessMaps {
    four: BatchMap<AccessKey4, AccessRule>,
    six: BatchMap<AccessKey6, AccessRule>,
}

impl AccessMaps {
    pub(crate) fn open(source: &impl Source) -> Result<Self, DatapathError> {
        Ok(Self {
            four: BatchMap::new(map::ACCESS4, source.open(map::ACCESS4)?)?,
            six: BatchMap::new(map::ACCESS6, source.open(map::ACCESS6)?)?,
        })
    }

    /// Every rule, in no order. A second or so for a million.
    pub(crate) fn read(&self) -> Result<Vec<(Prefix, AccessRule)>, MapAccessError> {
        let mut rules = Vec::new();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut batches = self.four.batches();
        while batches.next_into(&mut keys, &mut values)? {
            rules.extend(keys.iter().zip(&values).filter_map(|(key, rule)| {
                let network = Ipv4Net::new(key.address.into(), prefix_length(key.prefix_bits)?);
                Some((Prefix { scope: key.scope, network: network.ok()?.into() }, *rule))
            }));
        }
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut batches = self.six.batches();
        while batches.next_into(&mut keys, &mut values)? {
            rules.extend(keys.iter().zip(&values).filter_map(|(key, rule)| {
                let network = Ipv6Net::new(key.address.into(), prefix_length(key.prefix_bits)?);
                Some((Prefix { scope: key.scope, network: network.ok()?.into() }, *rule))
            }));
        }
        Ok(rules)
    }

    /// Writes rules.
    pub(crate) fn put(&self, rules: &[(Prefix, AccessRule)]) -> Result<(), MapAccessError> {
        let (four, six) = split(rules.iter().map(|(prefix, rule)| (prefix, *rule)));
        self.four.update(&four.0, &four.1)?;
        self.six.update(&six.0, &six.1)
    }

    /// Removes rules; not an error if they are not there.
    pub(crate) fn remove(&self, prefixes: &[Prefix]) -> Result<(), MapAccessError> {
        let (four, six) = split(prefixes.iter().map(|prefix| (prefix, ())));
        self.four.delete(&four.0)?;
        self.six.delete(&six.0)?;
        Ok(())
    }
}

type Columns<K, T> = (Vec<K>, Vec<T>);

/// Keys by family, each with what belongs to it.
fn split<'a, T>(
    prefixes: impl Iterator<Item = (&'a Prefix, T)>,
) -> (Columns<AccessKey4, T>, Columns<AccessKey6, T>) {
    let (mut four, mut six) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for (Prefix { scope, network }, with) in prefixes {
        match network {
            IpNet::V4(network) => {
                four.0.push(key(*scope, network.prefix_len(), network.network().octets()));
                four.1.push(with);
            }
            IpNet::V6(network) => {
                six.0.push(key(*scope, network.prefix_len(), network.network().octets()));
                six.1.push(with);
            }
        }
    }
    (four, six)
}

fn key<const N: usize>(scope: u32, length: u8, address: [u8; N]) -> AccessKey<N> {
    AccessKey { prefix_bits: SCOPE_BITS + u32::from(length), scope, address }
}

/// The length of a network's prefix; none for a key that no list makes.
fn prefix_length(bits: u32) -> Option<u8> {
    u8::try_from(bits.checked_sub(SCOPE_BITS)?).ok()
}
