//! Ctrl-C and its like: the first asks the lab to come to its end, the second ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often somebody who waits looks for an interrupt.
const STEP: Duration = Duration::from_millis(20);

/// The exit code of a program that an interrupt ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Whether somebody wants the lab to end. Clones tell the same.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    wanted: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens to SIGINT, SIGTERM and SIGHUP from now on. The second one ends the process:
    /// as it is the first of its world, all else in there ends with it.
    ///
    /// # Errors
    /// When there can be no thread or no handler.
    pub fn listen() -> Result<Self> {
        let interrupt = Interrupt::default();
        let wanted = Arc::clone(&interrupt.wanted);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("starting a runtime")?;
        let mut signals = {
            let _inside = runtime.enter();
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            kinds.into_iter().map(signal).collect::<Result<Vec<_>, _>>().context("listening to signals")?
        };
        let listen = move || {
            runtime.block_on(async {
                any_of(&mut signals).await;
                wanted.store(true, Ordering::Relaxed);
                any_of(&mut signals).await;
                std::process::exit(INTERRUPTED)
            })
        };
        thread::Builder::new().name("signals".into()).spawn(listen).context("starting a thread")?;
        Ok(interrupt)
    }

    /// Whether it is wanted.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Sleeps, but not beyond an interrupt.
    pub fn sleep(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.is_wanted() && Instant::now() < end {
            thread::sleep(STEP.min(end.saturating_duration_since(Instant::now())));
        }
    }

    /// Sleeps until an interrupt.
    pub fn wait(&self) {
        while !self.is_wanted() {
            thread::sleep(STEP);
        }
    }

    /// Asks for the end, as a signal does.
    pub fn raise(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }
}

async fn any_of(signals: &mut [Signal]) {
    use std::future::poll_fn;
    use std::task::Poll;
    poll_fn(|context| {
        let came = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if came { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
