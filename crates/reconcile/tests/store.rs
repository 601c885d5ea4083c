//! What is remembered survives crashes, damage is told, and one holder of the lock keeps others waiting.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, sync::mpsc, thread, time::Duration};

use viaduct_model::Source;
use viaduct_plan::{Attachments, Target, attached_otherwise};
use viaduct_reconcile::{KEPT, Moment, Revision, Store, StoreError, Unconfirmed};

fn source(text: &str) -> Source {
    Source { name: "viaduct.toml".to_owned(), text: text.to_owned() }
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("state"), &directory.path().join("run")).unwrap();
    (directory, store)
}

#[test]
fn what_is_written_is_read() {
    let (_directory, store) = store();
    assert!(store.applied().unwrap().is_none() && store.attachments().unwrap().is_empty());
    let sources = vec![source("[host]\nname = \"é\"\n"), source("")];
    store.set_applied(&sources).unwrap();
    assert_eq!(store.applied().unwrap(), Some(sources));
    let tap = Target::Tap { name: "tap0".parse().unwrap(), owner: Some(7) };
    let attachments = Attachments::from([("web".parse().unwrap(), tap)]);
    store.set_attachments(&attachments).unwrap();
    assert_eq!(store.attachments().unwrap(), attachments);
    store.clear_applied().unwrap();
    store.clear_applied().unwrap();
    assert!(store.applied().unwrap().is_none());
}

/// So many NICs in namespaces; which ones differs.
fn attached(numbers: impl IntoIterator<Item = u32>, generation: u64) -> Attachments {
    let nic = |number: u32| {
        let path = format!("/run/netns/guest{number}");
        (format!("guest{number}").parse().unwrap(), Target::Netns { path, inode: generation })
    };
    numbers.into_iter().map(nic).collect()
}

#[test]
fn a_change_adds_to_what_is_remembered_of_many() {
    let (directory, store) = store();
    let path = directory.path().join("run/attachments.json");
    let mut known = Attachments::new();
    let mut sizes = Vec::new();
    for step in 0..350_u32 {
        let mut next = known.clone();
        // Some come, some go, some are elsewhere.
        next.extend(attached([step % 70, 7 * step % 90], step.into()));
        attached([11 * step % 80], 0).keys().for_each(|nic| {
            next.remove(nic);
        });
        let before = fs::read(&path).unwrap_or_default();
        let whole = store.change_attachments(&next, &attached_otherwise(&known, &next)).unwrap();
        let after = fs::read(&path).unwrap();
        assert_eq!(store.attachments().unwrap(), next, "step {step}");
        if whole {
            sizes.push(before.len());
        } else {
            assert!(after.starts_with(&before) && after.len() < before.len() + 4096, "step {step}");
            // Who was killed meanwhile had come to the end of a page.
            for page in (before.len()..after.len()).filter(|size| size % 4096 == 0) {
                fs::write(&path, &after[..page]).unwrap();
                assert_eq!(store.attachments().unwrap(), known, "step {step}, killed at {page}");
            }
            // Cut elsewhere it is damaged, and not as before.
            if step % 20 == 0 {
                fs::write(&path, &after[..after.len() - 2]).unwrap();
                let error = store.attachments().unwrap_err();
                assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
            }
            fs::write(&path, &after).unwrap();
        }
        known = next;
    }
    assert!(sizes.len() < 50 && sizes.iter().any(|size| *size > 20_000), "written anew at {sizes:?}");
    store.set_attachments(&Attachments::new()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().trim(), "{}");
}

#[test]
fn a_file_half_written_beside_is_nothing() {
    let (directory, store) = store();
    store.set_applied(&[source("")]).unwrap();
    fs::write(directory.path().join("state/applied.new"), "{ half").unwrap();
    assert_eq!(store.applied().unwrap(), Some(vec![source("")]));
    store.set_applied(&[source("#")]).unwrap();
    assert_eq!(store.applied().unwrap(), Some(vec![source("#")]));
}

#[test]
fn damage_is_told_with_the_file() {
    let (directory, store) = store();
    let (applied, attachments) =
        (directory.path().join("state/applied.json"), directory.path().join("run/attachments.json"));
    for damage in
        ["", "{", "null", "[]", r#"{"sources":[]}"#, r#"{"sources":[{"name":"x"}]}"#, "{\"web.0\":1}"]
    {
        fs::write(&applied, damage).unwrap();
        let error = store.applied().unwrap_err();
        assert!(
            matches!(&error, StoreError::Damaged { path, .. } if *path == applied),
            "{damage}: {error:?}"
        );
        assert!(error.to_string().contains("viaduct apply"), "{error}");
    }
    for damage in ["", "{", "null", "[]", "{\"web.0\":1}", r#"{"not a nic":{"device":{"name":"x"}}}"#] {
        fs::write(&attachments, damage).unwrap();
        let error = store.attachments().unwrap_err();
        assert!(
            matches!(&error, StoreError::Damaged { path, .. } if *path == attachments),
            "{damage}: {error:?}"
        );
    }
}

#[test]
fn a_file_that_cannot_be_written_leaves_the_old_one() {
    let (directory, store) = store();
    store.set_applied(&[source("old")]).unwrap();
    // A directory stands where the new one would be written.
    fs::create_dir(directory.path().join("state/applied.new")).unwrap();
    let error = store.set_applied(&[source("new")]).unwrap_err();
    assert!(error.to_string().contains("applied.json"), "{error}");
    assert_eq!(store.applied().unwrap(), Some(vec![source("old")]));
}

#[test]
fn the_lock_keeps_others_waiting_and_tells_them() {
    let (_directory, store) = store();
    let held = store.lock(|| panic!("nobody holds it")).unwrap();
    let (tell, told) = mpsc::channel();
    let other = store.clone();
    let waiting = thread::spawn(move || {
        let lock = other.lock(|| tell.send("waits").unwrap()).unwrap();
        tell.send("has it").unwrap();
        drop(lock);
    });
    assert_eq!(told.recv().unwrap(), "waits");
    assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
    drop(held);
    assert_eq!(told.recv().unwrap(), "has it");
    waiting.join().unwrap();
}

#[test]
fn the_last_revisions_are_kept_and_what_says_the_same_is_none() {
    let (directory, store) = store();
    assert!(store.history().unwrap().revisions.is_empty());
    let texts: Vec<String> = (0..KEPT + 5).map(|n| format!("# {n}\n")).collect();
    for (text, time) in texts.iter().zip(1000..) {
        let number = store.record(time, "apply", "root", &[source(text)]).unwrap();
        assert_eq!(store.record(time, "set", "root", &[source(text)]).unwrap(), number, "the same again");
    }
    let last = store.record(2000, "down", "ann", &[]).unwrap();
    let history = store.history().unwrap().revisions;
    assert_eq!(history.len(), KEPT);
    assert!(history.is_sorted_by_key(|revision| revision.number));
    let expected =
        Revision { number: last, time: 2000, action: "down".into(), by: "ann".into(), sources: vec![] };
    assert_eq!(history.last(), Some(&expected));
    assert_eq!(last, texts.len() as u64 + 1);
    let damaged = directory.path().join(format!("state/history/{last}.json"));
    fs::write(&damaged, "{").unwrap();
    let found = store.history().unwrap();
    assert_eq!(found.revisions, history.split_last().unwrap().1, "the others are there");
    assert_eq!(store.last_revision().unwrap(), Some(last));
    let error = found.last().unwrap_err();
    assert!(matches!(&error, StoreError::Damaged { path, .. } if *path == damaged), "{error:?}");
    // The last one tells; older ones are in nobody's way.
    let next = store.record(3000, "apply", "root", &[source("next")]).unwrap();
    let found = store.history().unwrap();
    assert_eq!(found.damaged.keys().collect::<Vec<_>>(), [&last]);
    assert_eq!(found.last().unwrap().map(|revision| revision.number), Some(next));
}

#[test]
fn an_unconfirmed_change_is_remembered_until_it_is_disarmed() {
    let (directory, store) = store();
    assert_eq!(store.unconfirmed().unwrap(), None);
    let moment = |boot: &str, milliseconds| Moment { boot: boot.to_owned(), milliseconds };
    let unconfirmed = Unconfirmed { deadline: moment("a", 5000), before: vec![source("old")] };
    store.arm(&unconfirmed).unwrap();
    assert_eq!(store.unconfirmed().unwrap(), Some(unconfirmed.clone()));
    store.disarm().unwrap();
    store.disarm().unwrap();
    assert_eq!(store.unconfirmed().unwrap(), None);
    for (now, left) in [
        (moment("a", 0), Some(5000)),
        (moment("a", 4999), Some(1)),
        (moment("a", 5000), None),
        (moment("a", 9000), None),
        // The machine was booted since: the time is over, whatever its clock says.
        (moment("b", 10), None),
    ] {
        assert_eq!(unconfirmed.deadline.left(&now), left, "{now:?}");
    }
    fs::write(directory.path().join("state/unconfirmed.json"), "{}").unwrap();
    assert!(store.unconfirmed().unwrap_err().to_string().contains("viaduct history"));
}
