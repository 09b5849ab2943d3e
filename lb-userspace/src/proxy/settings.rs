//! Whether a server of HTTP/2 can be asked for WebSockets: it says so in its settings
//! (RFC 8441, 3). hyper tells nobody when they come, but the task that reads them runs on our
//! executor, and hyper knows how many streams a server takes: of one that has not spoken yet
//! it assumes a number of ours.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Context, Waker},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::sync::Notify;

use super::timer::within;

/// How many streams a server is thought to take until its settings have come: few enough for
/// any server, and a number that none would say.
pub(super) const UNTOLD_STREAMS: usize = 97;
/// How long settings are waited for.
const WAIT: Duration = Duration::from_secs(1);

/// What the settings of one connection say; shared by its requests and its tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings(Rc<Known>);

#[derive(Debug, Default)]
struct Known {
    /// None until settings have come.
    takes_websockets: Cell<Option<bool>>,
    /// Settings have come, or the connection has ended.
    news: Notify,
    /// The task that looks whether they have.
    looks: RefCell<Option<Waker>>,
}

/// Runs hyper's tasks of a connection, and lets its settings be looked at when they may have
/// come.
#[derive(Clone, Debug)]
pub(super) struct SettingsExecutor(Settings);

impl Settings {
    pub(super) fn executor(&self) -> SettingsExecutor {
        SettingsExecutor(self.clone())
    }

    /// Looks at what hyper knows of the server. The task of `context` is woken when there may
    /// be more.
    pub(super) fn look(&self, context: &Context<'_>, takes_websockets: bool, streams: usize) {
        let known = &self.0;
        if takes_websockets || streams != UNTOLD_STREAMS {
            let before = known.takes_websockets.replace(Some(takes_websockets));
            if before != Some(takes_websockets) {
                known.news.notify_waiters();
            }
        } else if known.looks.borrow().is_none() {
            known.looks.replace(Some(context.waker().clone()));
        }
    }

    /// The connection has ended.
    pub(super) fn end(&self) {
        self.0.news.notify_waiters();
    }

    /// Whether the server can be asked for a WebSocket, once it has said so, but not for long.
    /// None if the connection `has_ended`.
    pub(super) async fn takes_websockets(&self, has_ended: impl Fn() -> bool) -> Option<bool> {
        let known = &self.0;
        loop {
            let mut news = pin!(known.news.notified());
            news.as_mut().enable();
            if has_ended() {
                return None;
            }
            if let Some(answer) = known.takes_websockets.get() {
                return Some(answer);
            }
            if within(WAIT, news).await.is_none() {
                known.takes_websockets.set(Some(false));
            }
        }
    }
}

impl<F> Executor<F> for SettingsExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        let Settings(known) = &self.0;
        if known.takes_websockets.get().is_some() {
            tokio::task::spawn_local(future);
            return;
        }
        let known = Rc::clone(known);
        tokio::task::spawn_local(async move {
            let mut future = pin!(future);
            poll_fn(|context| {
                let polled = future.as_mut().poll(context);
                if known.takes_websockets.get().is_none()
                    && let Some(task) = &*known.looks.borrow()
                {
                    task.wake_by_ref();
                }
                polled
            })
            .await;
        });
    }
}
