// SPDX-License-Identifier: GPL-2.0

//! Which namespaces are excluded: lists of any words, against a model that goes through them one by
//! one, and the forms of a word.

use proptest::prelude::*;
use rpmem_host_tests::logic::exclude::*;

const LABEL: [u8; 16] = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\xfe\xdc\xba\x98\x76\x54\x32\x10";
const BLOCK: [u8; 16] = [0xaa; 16];

/// A namespace with the words that are true of it in the mode `mode`.
fn namespace() -> Namespace<'static> {
    Namespace {
        name: b"namespace1.0",
        region: b"region1",
        uuids: [LABEL, BLOCK],
    }
}

fn is_true(word: &str, mode: Mode) -> bool {
    match word {
        "raw" => mode == Mode::Raw,
        "fsdax" => mode == Mode::Fsdax,
        "sector" => mode == Mode::Sector,
        "devdax" => mode == Mode::Devdax,
        "namespace1.0"
        | "region1"
        | "01234567-89ab-cdef-fedc-ba9876543210"
        | "AAAAAAAA-aaaa-aaaa-aaaa-aaaaaaaaaaaa" => true,
        _ => false,
    }
}

const WORDS: [&str; 13] = [
    "raw",
    "fsdax",
    "sector",
    "devdax",
    "namespace1.0",
    "namespace1.1",
    "namespace11.0",
    "region1",
    "region0",
    "01234567-89ab-cdef-fedc-ba9876543210",
    "AAAAAAAA-aaaa-aaaa-aaaa-aaaaaaaaaaaa",
    "01234567-89ab-cdef-fedc-ba9876543211",
    "00000000-0000-0000-0000-000000000000",
];

proptest! {
    #[test]
    fn the_last_true_word_decides(
        list in prop::collection::vec((any::<bool>(), 0..WORDS.len(), 0..3usize), 0..8),
    ) {
        let mut text = String::new();
        for (taken_back, word, spaces) in &list {
            text += &",".repeat(*spaces);
            text += if *taken_back { " !" } else { "" };
            text += WORDS[*word];
            text += if *spaces == 0 { ",".to_owned() } else { " \n,".to_owned() }.as_str();
        }
        prop_assert_eq!(check(text.as_bytes()), Ok(()));
        let mut any = true;
        for mode in Mode::ALL {
            let mut excluded = false;
            for (taken_back, word, _) in &list {
                if is_true(WORDS[*word], mode) {
                    excluded = !taken_back;
                }
            }
            any &= excluded;
            prop_assert_eq!(excludes(text.as_bytes(), &namespace(), mode), excluded, "{} {:?}", text, mode);
        }
        prop_assert_eq!(excludes_in_any_mode(text.as_bytes(), &namespace()), any);
    }

    /// No input is a problem, and what is refused is part of it.
    #[test]
    fn any_bytes(list in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Err(word) = check(&list) {
            prop_assert!(!word.is_empty());
            prop_assert!(list.windows(word.len()).any(|part| part == word));
        }
        excludes_in_any_mode(&list, &namespace());
    }
}

#[test]
fn a_namespace_without_uuid() {
    let namespace = Namespace {
        uuids: [[0; 16]; 2],
        ..namespace()
    };
    let list = b"00000000-0000-0000-0000-000000000000,01234567-89ab-cdef-fedc-ba9876543210";
    assert_eq!(check(list), Ok(()));
    assert!(!excludes(list, &namespace, Mode::Raw));
}

#[test]
fn words_that_are_none() {
    for word in [
        "all",
        "RAW",
        "raw fsdax",
        "namespace",
        "namespace1",
        "namespace1.",
        "namespace.0",
        "namespace1.0p1",
        "namespace1.0.0",
        "region",
        "region1x",
        "pmem0",
        "!",
        "!!raw",
        "0123456789abcdeffedcba9876543210",
        "01234567-89ab-cdef-fedc-ba987654321",
        "01234567-89ab-cdef-fedc-ba98765432100",
        "01234567-89ab-cdef-fedc_ba9876543210",
        "0123456g-89ab-cdef-fedc-ba9876543210",
    ] {
        let list = format!("raw,{word},devdax");
        let refused = check(list.as_bytes()).expect_err(word);
        assert_eq!(refused, word.as_bytes());
        // The others count.
        assert!(
            excludes(list.as_bytes(), &namespace(), Mode::Devdax),
            "{word}"
        );
        assert!(
            !excludes(list.as_bytes(), &namespace(), Mode::Sector),
            "{word}"
        );
    }
}
