use super::*;

/// Two layers of a small Llama, and its output head.
fn modules() -> Vec<LinearShape> {
    let mut all = Vec::new();
    for layer in 0..2 {
        for (name, out_features, in_features) in [
            ("self_attn.q_proj", 64, 64),
            ("self_attn.k_proj", 32, 64),
            ("mlp.gate_proj", 176, 64),
            ("mlp.down_proj", 64, 176),
        ] {
            all.push(LinearShape {
                name: format!("model.layers.{layer}.{name}"),
                out_features,
                in_features,
                place: Place::default(),
            });
        }
    }
    all.push(LinearShape { name: "lm_head".into(), out_features: 300, in_features: 64, place: Place::default() });
    all
}

fn rules(targets: &str) -> TargetRules {
    TargetRules { modules: targets.parse().unwrap(), rank: 4, alpha: 16.0, density: 0.02, ..TargetRules::default() }
}

fn names(targets: &str) -> Vec<String> {
    select(&modules(), &rules(targets)).unwrap().into_iter().map(|t| t.module.name).collect()
}

#[test]
fn patterns_match_whole_components_from_the_end() {
    let name = "model.layers.10.self_attn.q_proj";
    for yes in ["q_proj", "self_attn.q_proj", name, "*_proj", "layers.*.self_attn.q_proj", "layers.1*.*.q*j", "*"] {
        assert!(matches(yes, name), "{yes}");
    }
    for no in ["proj", "attn.q_proj", "k_proj", "layers.1.*.q_proj", "x.model.layers.10.self_attn.q_proj", "", "q_*k"] {
        assert!(!matches(no, name), "{no}");
    }
    assert!(!glob("ab*ba", "aba"), "the parts of a pattern must not overlap");
}

#[test]
fn all_linear_leaves_the_head_out() {
    assert_eq!(names("all-linear").len(), 8);
    assert!(!names("all-linear").contains(&"lm_head".to_owned()));
    assert_eq!(names("lm_head,layers.1.self_attn.q_proj"), ["model.layers.1.self_attn.q_proj", "lm_head"]);
}

#[test]
fn selected_modules_keep_their_place_in_the_list() {
    let chosen = select(&modules(), &rules("down_proj")).unwrap();
    assert_eq!(chosen.iter().map(|t| t.index).collect::<Vec<_>>(), [3, 7]);
    assert_eq!((chosen[0].rank, chosen[0].scale, chosen[0].nnz), (4, 4.0, 225));
}

#[test]
fn entries_round_down_as_in_python() {
    assert_eq!((nnz(0.02, 64, 64), nnz(0.02, 32, 64), nnz(0.02, 176, 64)), (81, 40, 225));
    assert_eq!(nnz(0.006, 4096, 4096), 100_663);
    assert_eq!(nnz(0.29, 10, 10), 29);
    assert_eq!((nnz(1.0, 7, 9), nnz(0.0, 7, 9)), (63, 0));
}

#[test]
fn the_longest_pattern_wins() {
    let mut r = rules("all-linear");
    r.rank_pattern = "q_proj=2,layers.1.self_attn.q_proj=32,gate_proj=0".parse().unwrap();
    r.alpha_pattern = "q_proj=8".parse().unwrap();
    r.density_pattern = "down_proj=0.5, k_proj=0".parse().unwrap();
    let chosen = select(&modules(), &r).unwrap();
    assert_eq!(chosen.iter().map(|t| t.rank).collect::<Vec<_>>(), [2, 4, 0, 4, 32, 4, 0, 4]);
    assert_eq!(chosen.iter().map(|t| t.scale).collect::<Vec<_>>(), [4.0, 4.0, 1.0, 4.0, 0.25, 4.0, 1.0, 4.0]);
    assert_eq!(chosen.iter().map(|t| t.nnz).take(4).collect::<Vec<_>>(), [81, 0, 225, 5632]);
    r.rslora = true;
    assert_eq!(select(&modules(), &r).unwrap()[1].scale, 8.0);
}

#[test]
fn modules_are_named_by_their_last_part_where_all_are_meant() {
    let all = modules();
    let naming = |keep: &dyn Fn(&str) -> bool| {
        let chosen: Vec<&str> = all.iter().map(|m| m.name.as_str()).filter(|name| keep(name)).collect();
        let patterns = TargetModules::naming(&chosen, all.iter().map(|m| m.name.as_str()));
        let named: Vec<&str> = all.iter().map(|m| m.name.as_str()).filter(|name| patterns.covers(name)).collect();
        assert_eq!(named, chosen);
        patterns.0
    };
    assert_eq!(naming(&|name| name != "lm_head"), ["down_proj", "gate_proj", "k_proj", "q_proj"]);
    assert_eq!(
        naming(&|name| name.ends_with("k_proj") || name.contains("1.self_attn.q")),
        ["k_proj", "model.layers.1.self_attn.q_proj"]
    );
}

#[test]
fn values_are_named_by_the_last_part_where_they_are_alike() {
    let values = [("l.0.q", 2), ("l.1.q", 2), ("l.0.k", 8), ("l.1.k", 3), ("l.0.v", 8)];
    let found = PerModule::of(&values, 8);
    assert_eq!(found, "q=2,l.1.k=3".parse().unwrap());
    assert!(values.iter().all(|(name, value)| found.get(name).unwrap_or(8) == *value));
}

#[test]
fn given_masks_decide_what_a_target_has() {
    let mask = |nnz: u64| CsrPattern::from_flat(64, 64, &(0..nnz).collect::<Vec<_>>()).unwrap();
    let (q, k) = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.k_proj");
    let masks = BTreeMap::from([(q.to_owned(), mask(9)), (k.to_owned(), mask(0))]);
    let all = select_masked(&modules(), &rules("all-linear"), &masks).unwrap();
    assert_eq!(all.iter().map(|t| t.nnz).collect::<Vec<_>>(), [9, 0, 0, 0, 0, 0, 0, 0]);
    // what would get nothing is left out, and a density that is too small for an entry does not matter
    let alone = TargetRules { rank: 0, density: 1e-9, ..rules("all-linear") };
    let some = select_masked(&modules(), &alone, &masks).unwrap();
    assert_eq!(some.iter().map(|t| (t.module.name.as_str(), t.nnz)).collect::<Vec<_>>(), [(q, 9)]);
    let err = select_masked(&modules(), &rules("down_proj"), &masks).unwrap_err().to_string();
    assert!(err.contains("the masks have no entry for any of the target modules"), "{err}");
}

#[test]
fn what_matches_nothing_is_named_with_its_neighbours() {
    let err = |r: &TargetRules| select(&modules(), r).unwrap_err().to_string();
    assert!(err(&rules("q_prj")).starts_with("⟨target_modules⟩: \"q_prj\" matches no module; the nearest are q_proj,"));
    assert!(err(&rules("self_atn.k_proj")).contains("self_attn.k_proj"));
    let mut r = rules("q_proj");
    r.rank_pattern = "down_proj=3".parse().unwrap();
    assert!(
        err(&r).starts_with("⟨rank_pattern⟩: \"down_proj\" matches no module; the nearest are q_proj"),
        "{}",
        err(&r)
    );
    assert!(select(&[], &rules("all-linear")).unwrap_err().to_string().contains("no linear modules"));
}

#[test]
fn a_module_that_would_get_nothing_is_an_error() {
    let err = |r: &TargetRules| select(&modules(), r).unwrap_err().to_string();
    let mut r = rules("all-linear");
    r.density = 1e-9;
    assert!(err(&r).contains("less than one entry"), "{}", err(&r));
    r.density = 0.0;
    r.rank_pattern = "k_proj=0".parse().unwrap();
    assert!(err(&r).contains("k_proj would get rank 0 and density 0"), "{}", err(&r));
}

#[test]
fn texts_that_are_no_patterns_are_refused() {
    assert!("q_proj,,v_proj".parse::<TargetModules>().is_err());
    assert!("".parse::<TargetModules>().is_err());
    for bad in ["q_proj", "q_proj=", "=3", "q_proj=x", "q_proj=-1", "q_proj=1,q_proj=2"] {
        assert!(bad.parse::<PerModule<usize>>().is_err(), "{bad}");
    }
}

#[test]
fn a_file_gives_one_name_or_a_list() {
    let read = |text: &str| {
        let table: toml::Table = text.parse().unwrap();
        table["t"].clone().try_into::<TargetModules>()
    };
    assert_eq!(read("t = 'q_proj, v_proj'").unwrap(), read("t = ['q_proj', 'v_proj']").unwrap());
    assert!(read("t = 3").unwrap_err().message().contains("a list of module names"));
    assert!(read("t = []").is_err());
}

#[test]
fn a_rank_that_no_module_can_make_use_of_is_refused() {
    let with = |targets: &str, rank, pattern: &str| {
        let mut r = rules(targets);
        r.rank = rank;
        if !pattern.is_empty() {
            r.rank_pattern = pattern.parse().unwrap();
        }
        select(&modules(), &r).map(drop).map_err(|e| e.to_string())
    };
    // k_proj has 32 rows: rank 64 is more than it needs there, and right elsewhere
    with("all-linear", 64, "").unwrap();
    with("k_proj", 32, "").unwrap();
    for (targets, rank, pattern, part) in [
        ("all-linear", 100_000, "", "⟨rank⟩: 100000 is over 64, the largest rank"),
        ("k_proj", 33, "", "33 is over 32"),
        ("all-linear", 4, "q_proj=65", "65 is over 64"),
        ("all-linear", usize::MAX, "", "18446744073709551615 is over 64"),
    ] {
        let e = with(targets, rank, pattern).unwrap_err();
        assert!(e.contains(part) && e.contains("smaller side of model.layers."), "{e}");
    }
}
