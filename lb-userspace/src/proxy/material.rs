//! What a configuration needs from files: TLS of bind addresses and of backends. Read before
//! anything is changed, kept over reloads as long as the configuration says the same, and
//! watched in between.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    listen::SocketKey,
    tls::{
        encryption::Encryption,
        error::{FileErrors, FileWarning},
        termination::Termination,
        watch::{Reloadable, Watched},
    },
};
use crate::model::{frontend::Frontend, name::Name, snapshot::Snapshot};

/// TLS by where it is used.
#[derive(Debug, Default)]
pub struct Material {
    terminations: BTreeMap<SocketKey, (String, Arc<Termination>)>,
    encryptions: BTreeMap<Name, (String, Arc<Encryption>)>,
}

/// What is wrong with the files of one place of the configuration.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {errors}")]
pub struct MaterialError {
    /// The key path: `frontends.web.bind[0].tls`.
    pub path: String,
    /// What is wrong.
    pub errors: FileErrors,
}

impl Material {
    /// Reads what `snapshot` needs. What `before` has under the same settings is read again
    /// in its place.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(snapshot: &Snapshot, before: &Self) -> Result<Self, Vec<MaterialError>> {
        let mut loading = Loading::default();
        for (name, frontend) in &snapshot.frontends {
            loading.frontend(name, frontend, before);
        }
        for name in snapshot.proxy_backends() {
            loading.backend(name, snapshot, before);
        }
        for (path, warning) in &loading.warnings {
            tracing::warn!("{path}: {warning}");
        }
        if loading.errors.is_empty() { Ok(loading.material) } else { Err(loading.errors) }
    }

    /// TLS that ends at a socket.
    pub(super) fn termination(&self, key: &SocketKey) -> Option<Arc<Termination>> {
        self.terminations.get(key).map(|(_, termination)| Arc::clone(termination))
    }

    /// TLS with the servers of a backend.
    pub(super) fn encryption(&self, backend: &Name) -> Option<Arc<Encryption>> {
        self.encryptions.get(backend).map(|(_, encryption)| Arc::clone(encryption))
    }

    /// Everything whose files are to be watched.
    #[must_use]
    pub fn watched(&self) -> Vec<Watched> {
        let terminations = self.terminations.values();
        let terminations =
            terminations.map(|(path, it)| (path.clone(), Arc::clone(it) as Arc<dyn Reloadable>));
        let encryptions = self.encryptions.values();
        let encryptions =
            encryptions.map(|(path, it)| (path.clone(), Arc::clone(it) as Arc<dyn Reloadable>));
        terminations.chain(encryptions).collect()
    }
}

#[derive(Default)]
struct Loading {
    material: Material,
    errors: Vec<MaterialError>,
    warnings: Vec<(String, FileWarning)>,
}

impl Loading {
    fn frontend(&mut self, name: &Name, frontend: &Frontend, before: &Material) {
        for (index, listen) in frontend.listen().iter().enumerate() {
            let Some(settings) = &listen.tls else { continue };
            let path = format!("frontends.{name}.bind[{index}].tls");
            let key = SocketKey::of(listen);
            let old = before.terminations.get(&key).map(|(_, old)| old);
            let loaded = match old.filter(|old| old.settings() == settings) {
                Some(old) => old.reload().map(|warnings| (Arc::clone(old), warnings)),
                None => Termination::load(settings.clone(), old.map(AsRef::as_ref))
                    .map(|(new, warnings)| (Arc::new(new), warnings)),
            };
            if let Some(termination) = self.note(&path, loaded) {
                self.material.terminations.insert(key, (path, termination));
            }
        }
    }

    fn backend(&mut self, name: &Name, snapshot: &Snapshot, before: &Material) {
        let backend = snapshot.backends.get(name);
        let Some(settings) = backend.and_then(|backend| backend.proxy.tls.as_ref()) else { return };
        let path = format!("backends.{name}.tls");
        let old = before.encryptions.get(name).map(|(_, old)| old);
        let loaded = match old.filter(|old| old.settings() == settings) {
            Some(old) => old.reload().map(|warnings| (Arc::clone(old), warnings)),
            None => {
                Encryption::load(settings.clone()).map(|(new, warnings)| (Arc::new(new), warnings))
            }
        };
        if let Some(encryption) = self.note(&path, loaded) {
            self.material.encryptions.insert(name.clone(), (path, encryption));
        }
    }

    fn note<T>(
        &mut self,
        path: &str,
        loaded: Result<(T, Vec<FileWarning>), FileErrors>,
    ) -> Option<T> {
        match loaded {
            Ok((loaded, warnings)) => {
                self.warnings
                    .extend(warnings.into_iter().map(|warning| (path.to_owned(), warning)));
                Some(loaded)
            }
            Err(errors) => {
                self.errors.push(MaterialError { path: path.to_owned(), errors });
                None
            }
        }
    }
}
