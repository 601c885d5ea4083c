//! A large host loads at once. Run it in release to see the figure: `cargo test --release --test size -- --nocapture`.

#![expect(clippy::disallowed_methods, reason = "this measures time")]
#![expect(clippy::unwrap_used, reason = "in tests; the lint's own exception does not reach their helpers")]

mod common;

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use common::load_text;

fn host_with_guests(count: usize) -> String {
    let mut text = "[uplinks.wan]\ninterface = \"eth0\"\n[networks.lan]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.0.0.0/8\"]\n".to_owned();
    for n in 1..=count {
        write!(
            text,
            "[guests.web-{n}]\nid = {n}\npublish = [\"203.0.113.{}:{}:80/tcp\"]\nallow-in = [{{ from = \"192.0.2.0/24\", ports = \
             [\"22/tcp\"] }}, {{ from = \"guest:web-{}\", ports = [\"5432\"] }}]\n[[guests.web-{n}.nics]]\nnetwork = \"lan\"\n\
             addresses = [\"10.1.{}.{}\"]\n\n",
            n % 4 + 1,
            10_000 + n,
            n % count + 1,
            n / 250,
            n % 250 + 1,
        )
        .unwrap();
    }
    text
}

#[test]
fn ten_thousand_guests_load_at_once() {
    let text = host_with_guests(10_000);
    let took = (0..5).map(|_| {
        let start = Instant::now();
        let loaded = load_text(&text).unwrap();
        assert_eq!(loaded.config.guests.len(), 10_000);
        start.elapsed()
    });
    let best = took.min().unwrap();
    println!("10,000 guests ({} KiB): {best:?}", text.len() / 1024);
    // A debug build on a busy machine; a release build takes a small part of it.
    assert!(best < Duration::from_secs(5), "{best:?}");
}

#[test]
fn time_grows_with_the_guests_and_not_with_their_square() {
    let time = |count| {
        let text = host_with_guests(count);
        (0..3)
            .map(|_| {
                let start = Instant::now();
                load_text(&text).unwrap();
                start.elapsed()
            })
            .min()
            .unwrap()
    };
    let (small, large) = (time(500), time(5000));
    assert!(large < small * 40, "500 guests: {small:?}, 5,000: {large:?}");
}
