//! Ends of what carries frames that nobody wanted.

use std::time::Duration;

use tokio::time;

use super::{alone, keys::Host};

#[test]
fn when_a_thread_that_carries_frames_ends_so_does_the_process() {
    alone(async || {
        for worker in 0..2 {
            let Host { engine, queue, events, ended, .. } = Host::start(worker);
            let handle = engine.handle.clone();
            let mut runs = Box::pin(engine.run(queue, events, &ended));
            let still = time::timeout(Duration::from_millis(400), &mut runs).await;
            assert!(still.is_err(), "it ended by itself");
            handle.fail(worker);
            time::timeout(Duration::from_secs(30), runs).await.expect("it ends as well");
        }
    });
}
