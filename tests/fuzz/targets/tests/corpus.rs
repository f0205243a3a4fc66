//! Every entry of every corpus through its target: what a fuzzer has found once is found again by everybody's tests.

use std::{collections::BTreeSet, fs, path::Path};

use ztunnel_fuzz_targets::TARGETS;

/// How often each entry is changed at random. More, for longer: `cargo xtask fuzz`.
const CHANGES: u64 = 40;

/// Fails if what is near an entry breaks what the entry does not. The same changes each time.
#[test]
fn what_is_near_the_corpora_holds_too() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let rounds = std::env::var("ZTUNNEL_FUZZ_CHANGES").ok().and_then(|n| n.parse().ok()).unwrap_or(CHANGES);
    for (name, target) in TARGETS {
        let entries = fs::read_dir(corpora.join(name)).unwrap().map(|entry| entry.unwrap().path());
        let mut entries: Vec<_> = entries.map(|path| fs::read(path).unwrap()).collect();
        entries.sort();
        let mut dice = Dice(1);
        for entry in &entries {
            for _ in 0..rounds {
                let changed = changed(entry, &entries, &mut dice);
                // Said only if it fails.
                println!("{name}: {:?}", String::from_utf8_lossy(&changed));
                target(&changed);
            }
        }
    }
}

/// Cut, doubled, joined to another, or with single bytes changed to telling ones.
fn changed(entry: &[u8], others: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    const TELLING: &[u8] = b"\0\n :,-/[]{}*&!'\"0179azAZ.\x7f\xc3\xff";
    let mut bytes = entry.to_vec();
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len() + 1);
        let telling = TELLING[dice.below(TELLING.len())];
        match dice.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, telling),
            2 => bytes.extend_from_within(at..),
            3 => {
                let other = &others[dice.below(others.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[dice.below(other.len() + 1)..]);
            }
            4 => drop(bytes.drain(at..(at + dice.below(8)).min(bytes.len()))),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = telling;
                }
            }
        }
        // Doubling must not get out of hand.
        bytes.truncate(1 << 16);
    }
    bytes
}

/// Splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 1).unwrap_or(usize::MAX) % limit.max(1)
    }
}

/// Fails if something that was found comes back, and if a target has no corpus or a corpus no target.
#[test]
fn the_corpora_are_replayed() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let named = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let found: BTreeSet<_> = fs::read_dir(&corpora).unwrap().map(|entry| named(entry.unwrap())).collect();
    let known: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, known);
    for (name, target) in TARGETS {
        let entries: Vec<_> =
            fs::read_dir(corpora.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(entries.len() >= 3, "the corpus of {name} holds next to nothing");
        for entry in entries {
            // Said only if it fails.
            println!("{}", entry.display());
            target(&fs::read(&entry).unwrap());
        }
    }
}
