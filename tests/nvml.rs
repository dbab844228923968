//! The driver's library as the source of a card's memory: a stand-in with the same symbols, and the
//! real one where there is one.

#[path = "support/nvml.rs"]
mod stand_in;

use std::time::Duration;

use sn17_miner::gpu::probe::{Basis, NvmlLibrary, ProbeError, ProcessMemory, VramProbe};
use sn17_miner::primitives::MiB;
use stand_in::StandIn;

const GIB: u64 = 1 << 30;
/// Nobody waits so long for a library that reads a file.
const PATIENCE: Duration = Duration::from_secs(60);

const CARD: &str = "GPU-11111111-2222-3333-4444-555555555555";
const OTHER: &str = "GPU-99999999-2222-3333-4444-555555555555";

fn card(total: u64, free: u64, rest: &str) -> String {
    format!("card {CARD}\nname Stand-in 24\ntotal {total}\nfree {free}\n{rest}\n")
}

fn library(stand_in: &StandIn) -> NvmlLibrary {
    NvmlLibrary::new(Some(stand_in.library()), PATIENCE)
}

#[tokio::test]
async fn a_card_is_read_by_its_uuid_with_its_processes() {
    let processes = "process 4711 5046586573\nprocess 815 21045339750\ngraphics 815 21045339750\n\
                     graphics 77 1048576\nbusy 98";
    let other = format!("card {OTHER}\nname Display\ntotal 8589934592\nfree 8589934592\n");
    let Some(stand_in) = StandIn::new(&(other + &card(24 * GIB, 3 * GIB, processes))) else { return };
    let probe = library(&stand_in).card(CARD);
    let reading = probe.read().await.unwrap();
    assert_eq!((reading.total, reading.free, reading.used), (MiB(24_576), MiB(3_072), MiB(21_504)));
    let of = |pid, mib| ProcessMemory { pid, used: Some(MiB(mib)) };
    assert_eq!(reading.processes.unwrap(), [of(77, 1), of(815, 20_070), of(4711, 4_812)]);
    assert_eq!(reading.activity, Some(98));
    assert_eq!((probe.basis(), probe.uuid()), (Basis::Driver, CARD));

    stand_in.write(&card(24 * GIB, 20 * GIB, ""));
    let reading = probe.read().await.unwrap();
    assert_eq!((reading.free, reading.processes, reading.activity), (MiB(20_480), Some(Vec::new()), None));
    stand_in.write(&card(24 * GIB, 20 * GIB, "unlisted\nprocess 4711 1"));
    assert_eq!(probe.read().await.unwrap().processes, None);
}

#[tokio::test]
async fn cards_are_listed_and_chosen() {
    let Some(stand_in) = StandIn::new(&card(24 * GIB, 24 * GIB, "")) else { return };
    let library = library(&stand_in);
    let cards = library.list_cards().await.unwrap();
    assert_eq!(cards.found.len(), 1);
    let only = cards.named("auto").unwrap();
    assert_eq!((&*only.uuid, &*only.name, only.total), (CARD, "Stand-in 24", MiB(24_576)));
    assert_eq!(cards.named(&CARD.to_lowercase()).unwrap(), only);
    assert!(cards.named(OTHER).unwrap_err().is_gone());

    let other = format!("card {OTHER}\nname Display\ntotal 8589934592\nfree 0\n");
    let locked = "card GPU-locked 4\n".to_owned();
    stand_in.write(&(card(24 * GIB, 0, "") + &other + &locked));
    let cards = library.list_cards().await.unwrap();
    assert_eq!((cards.found.len(), cards.unreadable.len()), (2, 1));
    let choice = cards.named("auto").unwrap_err().to_string();
    assert!(choice.contains(CARD) && choice.contains(OTHER), "{choice}");
    assert_eq!(cards.named(OTHER).unwrap().total, MiB(8_192));

    stand_in.write("");
    let cards = library.list_cards().await.unwrap();
    assert!(cards.named("auto").is_err() && cards.found.is_empty());
}

#[tokio::test]
async fn figures_that_the_driver_does_not_know() {
    let Some(stand_in) = StandIn::new(&card(24 * GIB, 4 * GIB, "process 1 unknown\nprocess 2 1048576"))
    else {
        return;
    };
    let probe = library(&stand_in).card(CARD);
    let reading = probe.read().await.unwrap();
    let used: Vec<_> = reading.processes.unwrap().iter().map(|process| process.used).collect();
    assert_eq!(used, [None, Some(MiB(1))]);

    // More than the card has is as good as unknown.
    stand_in.write(&card(24 * GIB, 4 * GIB, "process 3 99999999999999\ngraphics 3 unknown"));
    assert_eq!(probe.read().await.unwrap().processes.unwrap(), [ProcessMemory { pid: 3, used: None }]);

    for (total, free) in [("unknown", "unknown"), ("25769803776", "unknown"), ("0", "0"), ("1000", "1001")] {
        stand_in.write(&format!("card {CARD}\ntotal {total}\nfree {free}\n"));
        let error = probe.read().await.unwrap_err();
        assert!(matches!(error, ProbeError::Implausible(_)), "{total} {free}: {error}");
    }
    let unlisted = library(&stand_in).list_cards().await.unwrap();
    assert_eq!(unlisted.found.len(), 1, "1,000 bytes are a size");
    stand_in.write(&format!("card {CARD}\ntotal unknown\nfree 0\n"));
    let unlisted = library(&stand_in).list_cards().await.unwrap();
    assert!(matches!(unlisted.unreadable[..], [ProbeError::Implausible(_)]));
}

#[tokio::test]
async fn a_card_that_disappears_and_comes_back() {
    let Some(stand_in) = StandIn::new(&card(24 * GIB, 4 * GIB, "")) else { return };
    let library = library(&stand_in);
    let (probe, stranger) = (library.card(CARD), library.card(OTHER));
    assert!(probe.read().await.is_ok());
    assert!(stranger.read().await.unwrap_err().is_gone(), "no such card");
    for lost in [card(24 * GIB, 4 * GIB, "gone"), card(24 * GIB, 4 * GIB, "error 15"), String::new()] {
        stand_in.write(&lost);
        let error = probe.read().await.unwrap_err();
        assert!(matches!(&error, ProbeError::Gone(uuid) if uuid == CARD), "{error}");
        stand_in.write(&card(24 * GIB, 5 * GIB, ""));
        assert_eq!(probe.read().await.unwrap().free, MiB(5_120));
    }
}

#[tokio::test]
async fn a_driver_that_is_absent_or_fails() {
    let Some(stand_in) = StandIn::new(&card(24 * GIB, 4 * GIB, "")) else { return };
    let nowhere = NvmlLibrary::new(Some(stand_in.folder().join("nothing.so")), PATIENCE);
    assert!(matches!(nowhere.list_cards().await, Err(ProbeError::Absent(_))));
    assert!(matches!(nowhere.card(CARD).read().await, Err(ProbeError::Absent(_))));
    let text = NvmlLibrary::new(Some(stand_in.folder().join("cards")), PATIENCE);
    assert!(matches!(text.list_cards().await, Err(ProbeError::Absent(_))), "a file that is no library");

    let library = library(&stand_in);
    let probe = library.card(CARD);
    // 9: the driver is not loaded, 18: it was replaced under the library.
    for code in [9, 18] {
        stand_in.write(&format!("init {code}\n{}", card(24 * GIB, 4 * GIB, "")));
        assert!(matches!(probe.read().await, Err(ProbeError::Absent(_))), "{code}");
    }
    stand_in.write(&card(24 * GIB, 4 * GIB, ""));
    assert!(probe.read().await.is_ok(), "it is tried again");
    stand_in.write(&card(24 * GIB, 4 * GIB, "error 999"));
    assert!(matches!(probe.read().await, Err(ProbeError::Failed(_))));
    // 3: not supported, as on cards that share the host's memory. Another source may know.
    stand_in.write(&card(24 * GIB, 4 * GIB, "error 3"));
    assert!(matches!(probe.read().await, Err(ProbeError::Absent(_))));
}

#[tokio::test]
async fn a_driver_that_hangs_holds_nobody_but_itself() {
    let Some(stand_in) = StandIn::new("") else { return };
    let fifo = stand_in.folder().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    stand_in.write(&card(24 * GIB, 4 * GIB, &format!("hang {}", fifo.display())));
    let library = NvmlLibrary::new(Some(stand_in.library()), Duration::from_millis(50));
    let probe = library.card(CARD);
    assert!(matches!(probe.read().await, Err(ProbeError::Silent(_))));
    assert!(matches!(probe.read().await, Err(ProbeError::Silent(_))), "the first still hangs");
    stand_in.write(&card(24 * GIB, 4 * GIB, ""));
    // Opening it lets the driver go on; opening waits until the driver is there.
    drop(tokio::fs::OpenOptions::new().write(true).open(&fifo).await.unwrap());
    // The answer to nobody is over in a moment, and the machine may be busy.
    let patient = async {
        loop {
            if let Ok(reading) = probe.read().await {
                return reading;
            }
        }
    };
    let reading = tokio::time::timeout(PATIENCE, patient).await.unwrap();
    assert_eq!(reading.free, MiB(4_096));
}

#[tokio::test]
async fn the_driver_of_this_machine() {
    let library = NvmlLibrary::new(None, PATIENCE);
    match library.list_cards().await {
        Ok(cards) => {
            for card in &cards.found {
                assert!(card.uuid.starts_with("GPU-"), "{card:?}");
                let reading = library.card(&card.uuid).read().await.unwrap();
                eprintln!("{card:?}: {reading:?}");
                assert_eq!(reading.total, card.total);
                assert!(reading.free < reading.total && reading.free.0 + reading.used.0 == reading.total.0);
            }
        }
        Err(error) => {
            eprintln!("skipped: {error}");
            assert!(matches!(error, ProbeError::Absent(_)), "{error}");
        }
    }
}
