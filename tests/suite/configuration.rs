//! Losses as data: names, text, TRL's configuration, and every parameter's domain.

use burn::tensor::DType;
use burn_dpo::{
    Alpha, Beta, Error, ExoSmoothing, FDivergence, FlipRate, LabelSmoothing, LdAlpha, LossMixture, Objective,
    OneOrMany, PairWeights, PreferenceLoss, Result, TargetMargin, Temperature, TrlConfig, Weight, WeightedLoss,
};
use proptest::prelude::*;

use crate::{
    devices::on_every_device,
    family::members,
    host::{floats, numbers},
    pairs::{Model, Sums},
};

#[test]
fn every_member_survives_text() {
    for loss in members() {
        let json = serde_json::to_string(&loss).unwrap();
        assert_eq!(serde_json::from_str::<PreferenceLoss>(&json).unwrap(), loss, "{json}");
    }
}

#[test]
fn every_member_has_a_name_that_parses_and_prints_and_is_its_tag() {
    let names = PreferenceLoss::all().map(|loss| loss.name());
    for (loss, name) in PreferenceLoss::all().into_iter().zip(names) {
        assert_eq!(name.parse(), Ok(loss));
        assert_eq!(loss.to_string(), name);
        assert_eq!(serde_json::to_value(loss).unwrap()["loss"], name);
        assert_eq!(names.iter().filter(|other| **other == name).count(), 1, "{name}");
    }
    assert_eq!("dpo".parse(), Ok(PreferenceLoss::default()));
    assert_eq!("aot_pair".parse::<PreferenceLoss>(), "aot_unpaired".parse());
    let error = "sigmiod".parse::<PreferenceLoss>().unwrap_err().to_string();
    assert!(error.starts_with("unknown loss \"sigmiod\", expected one of sigmoid, cdpo, "), "{error}");
}

/// A β can be changed where there is one, and nothing else changes.
#[test]
fn another_beta_is_another_beta_and_nothing_else() {
    let beta = Beta::new(0.7).unwrap();
    for loss in members() {
        let (mut json, has_beta) = (serde_json::to_value(loss).unwrap(), loss.beta().is_some());
        assert_eq!(json.get("beta").is_some(), has_beta, "{loss}");
        match loss.with_beta(beta) {
            Ok(other) => {
                json["beta"] = 0.7.into();
                assert_eq!((serde_json::to_value(other).unwrap(), other.beta()), (json, Some(beta)), "{loss}");
            }
            Err(error) => {
                assert_eq!((error.to_string(), has_beta), (format!("beta is 0.7, but {loss} does not read it"), false))
            }
        }
    }
}

#[test]
fn every_loss_of_trls_trainer_has_its_name_here() {
    for name in [
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "apo_zero",
        "apo_down",
        "discopop",
        "sft",
        "sigmoid_norm",
    ] {
        assert_eq!(name.parse::<PreferenceLoss>().unwrap().name(), name);
    }
}

/// A parameter that no one reads cannot be written down, and none that is read can be left out.
#[test]
fn unknown_and_missing_fields_are_refused_for_every_member() {
    for loss in members() {
        let mut json = serde_json::to_value(loss).unwrap();
        json["not_a_parameter"] = 1.0.into();
        let error = serde_json::from_value::<PreferenceLoss>(json.clone()).unwrap_err().to_string();
        assert!(error.starts_with("unknown field `not_a_parameter`"), "{loss}: {error}");

        json.as_object_mut().unwrap().remove("not_a_parameter");
        let fields: Vec<String> = json.as_object().unwrap().keys().cloned().collect();
        for field in fields.iter().filter(|field| !["loss", "divergence"].contains(&field.as_str())) {
            let mut short = json.clone();
            short.as_object_mut().unwrap().remove(field);
            let error = serde_json::from_value::<PreferenceLoss>(short).unwrap_err().to_string();
            assert!(error.starts_with(&format!("missing field `{field}`")), "{loss}: {error}");
        }
    }
}

/// Divergences are constructible only where they mean something.
#[test]
fn only_losses_of_a_difference_have_a_divergence() {
    for loss in PreferenceLoss::all() {
        let mut json = serde_json::to_value(loss).unwrap();
        json["divergence"] = "js_divergence".into();
        let of_difference = ["sigmoid", "cdpo", "robust", "hinge", "ipo", "sigmoid_norm", "exo_pair", "discopop"]
            .contains(&loss.name());
        assert_eq!(serde_json::from_value::<PreferenceLoss>(json).is_ok(), of_difference, "{loss}");
    }
}

#[test]
fn parameters_outside_their_domain_are_refused_by_name_and_number() {
    fn check<P>(new: fn(f64) -> Result<P>, name: &str, good: &[f64], bad: &[f64]) {
        for &number in good {
            assert!(new(number).is_ok(), "{name} {number}");
        }
        for &number in bad.iter().chain(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]) {
            match new(number) {
                Err(Error::Parameter { name: named, value, .. }) => {
                    assert_eq!(named, name);
                    assert!(value == number || value.is_nan() && number.is_nan());
                }
                Err(error) => panic!("{name} {number}: {error}"),
                Ok(_) => panic!("{name} {number} was accepted"),
            }
        }
    }
    check(Beta::new, "beta", &[0.1, 1e-30, 1e30], &[0.0, -0.1, 1e-39, 1e39]);
    check(LabelSmoothing::new, "label_smoothing", &[0.0, 0.1, 0.5], &[-1e-9, 0.5000001, 1.0]);
    check(FlipRate::new, "label_smoothing", &[0.0, 0.1, 0.4999], &[-1e-9, 0.5, 1.0]);
    check(ExoSmoothing::new, "label_smoothing", &[1e-3, 0.5], &[0.0, -1e-9, 0.6, 1e-39]);
    check(Temperature::new, "temperature", &[0.05, 2.0], &[0.0, -0.05, 1e-39, 1e39]);
    check(TargetMargin::new, "target margin", &[-3.0, 0.0, 1e38], &[1e39, -1e39]);
    check(Weight::new, "weight", &[0.0, 5.0], &[-1e-9, 1e-60, 1e39]);
    check(Alpha::new, "alpha", &[-3.0, 0.0, 1.0, 1e38], &[1e39]);
    check(LdAlpha::new, "ld_alpha", &[0.0, 0.5, 1.0], &[-1e-9, 1.0000001]);
}

/// Text goes through the same check.
#[test]
fn parameters_outside_their_domain_are_refused_in_text() {
    let read = |json: &str| serde_json::from_str::<PreferenceLoss>(json).map_err(|error| error.to_string());
    let error = read(r#"{"loss":"robust","beta":0.1,"label_smoothing":0.5}"#).unwrap_err();
    assert!(error.starts_with("label_smoothing is 0.5, expected a number from 0 to below 0.5"), "{error}");
    let error = read(r#"{"loss":"hinge","beta":-1}"#).unwrap_err();
    assert!(error.starts_with("beta is -1, expected"), "{error}");
    let error = "-1".parse::<Weight>().unwrap_err();
    assert_eq!(error, "weight is -1, expected 0 or a finite number above 0, normal in f32");
    assert!("much".parse::<Beta>().unwrap_err().starts_with("beta is \"much\": "));
}

// ---- mixtures ----

fn term(weight: f64, loss: &str) -> WeightedLoss {
    WeightedLoss { weight: Weight::new(weight).unwrap(), loss: loss.parse().unwrap() }
}

/// MPO: Σ w ℓ, not divided by Σ w; each term is what it would be alone.
#[test]
fn a_mixture_is_the_weighted_sum_of_its_losses() {
    on_every_device(|on| {
        let sums = [Sums::with_delta(-1.5), Sums::with_delta(2.5)];
        let reference = Model::reference(&sums, &on.device, DType::F32);
        let terms = vec![term(0.75, "sigmoid"), term(0.25, "ipo"), term(2.0, "sft")];
        let policy = Model::policy(&sums, &on.device, DType::F32);
        let losses = LossMixture::new(terms.clone()).unwrap().losses(&policy.pairs, &reference.pairs).unwrap();
        let (mixed, derivatives) = (numbers(&losses), policy.gradients(losses));
        let mut expected = ([0.0; 2], [[0.0; 2]; 2]);
        for WeightedLoss { weight, loss } in terms {
            let policy = Model::policy(&sums, &on.device, DType::F32);
            let losses = loss.losses(&policy.pairs, &reference.pairs).unwrap();
            let values = numbers(&losses);
            let gradients = losses.sum().backward();
            let derivatives = [&policy.chosen, &policy.rejected]
                .map(|leaf| leaf.grad(&gradients).map_or(vec![0.0; 2], |gradient| numbers(&gradient)));
            for pair in 0..2 {
                expected.0[pair] += weight.get() * values[pair];
                expected.1[0][pair] += weight.get() * derivatives[0][pair];
                expected.1[1][pair] += weight.get() * derivatives[1][pair];
            }
        }
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs());
        prop_assert!(close(&mixed, &expected.0), "{mixed:?} {expected:?}");
        prop_assert!(
            close(&derivatives[0], &expected.1[0]) && close(&derivatives[1], &expected.1[1]),
            "{derivatives:?} {expected:?}"
        );
        Ok(())
    });
}

/// A term of weight 0 is not computed: its NaN is not there.
#[test]
fn a_term_of_weight_0_is_not_there() {
    on_every_device(|on| {
        let sums = [Sums::with_delta(f64::NAN)];
        let (policy, reference) =
            (Model::policy(&sums, &on.device, DType::F32), Model::reference(&sums, &on.device, DType::F32));
        let mixture = LossMixture::new(vec![term(0.0, "sigmoid"), term(1.0, "slic")]).unwrap();
        prop_assert!(!mixture.needs_reference());
        prop_assert!(LossMixture::from(PreferenceLoss::default()).needs_reference());
        let slic = PreferenceLoss::all()[21];
        prop_assert_eq!(slic.name(), "slic");
        let [mixed, alone] =
            [mixture.losses(&policy.pairs, &reference.pairs), slic.losses(&policy.pairs, &reference.pairs)]
                .map(|losses| numbers(&losses.unwrap()));
        prop_assert_eq!(crate::host::bits(&mixed), crate::host::bits(&alone));
        Ok(())
    });
}

#[test]
fn mixtures_need_a_weight_and_survive_text() {
    let error = LossMixture::new(vec![]).unwrap_err().to_string();
    assert_eq!(error, "the number of losses is 0, expected at least 1");
    let error = LossMixture::new(vec![term(0.0, "sigmoid")]).unwrap_err().to_string();
    assert_eq!(error, "the sum of the mixture's weights is 0, expected a number above 0");
    let mixture = LossMixture::new(vec![term(0.8, "sigmoid"), term(0.2, "bco_pair"), term(1.0, "sft")]).unwrap();
    assert_eq!(mixture.to_string(), "0.8 sigmoid + 0.2 bco_pair + 1 sft");
    assert_eq!(mixture.beta(), Some(Beta::new(0.1).unwrap()));
    let json = serde_json::to_string(&mixture).unwrap();
    assert_eq!(serde_json::from_str::<LossMixture>(&json).unwrap(), mixture);
    assert!(serde_json::from_str::<LossMixture>("[]").is_err());
    let error = serde_json::from_str::<LossMixture>(r#"[{"weight":1,"loss":{"loss":"sft"},"x":1}]"#).unwrap_err();
    assert!(error.to_string().starts_with("unknown field `x`"), "{error}");
}

#[test]
fn weights_of_pairs_are_refused_where_losses_are_not_those_of_pairs() {
    on_every_device(|on| {
        let sums = [Sums::with_delta(1.0)];
        let (policy, reference) =
            (Model::policy(&sums, &on.device, DType::F32), Model::reference(&sums, &on.device, DType::F32));
        let weights = PairWeights::new(floats(&[1.0], [1], &on.device, DType::F32)).unwrap();
        for loss in PreferenceLoss::all() {
            let weighted = loss.weighted_losses(&policy.pairs, &reference.pairs, &weights);
            let mixture = LossMixture::from(loss).weighted_losses(&policy.pairs, &reference.pairs, &weights);
            let apart = !["aot", "aot_unpaired", "sft"].contains(&loss.name());
            prop_assert_eq!((weighted.is_ok(), mixture.is_ok()), (apart, apart), "{}", loss);
            if let Err(error) = weighted {
                let expected =
                    format!("weights of pairs and {loss} do not go together: its losses are not those of single pairs");
                prop_assert_eq!(error.to_string(), expected);
            }
        }
        let two = PairWeights::new(floats(&[1.0; 2], [2], &on.device, DType::F32)).unwrap();
        let error = PreferenceLoss::default().weighted_losses(&policy.pairs, &reference.pairs, &two).unwrap_err();
        prop_assert_eq!(error.to_string(), "losses holds 1 pairs, but weights holds 2");
        Ok(())
    });
}

// ---- TRL's configuration ----

fn objective(json: &str) -> std::result::Result<Objective, String> {
    let config: TrlConfig = serde_json::from_str(json).map_err(|error| error.to_string())?;
    config.objective().map_err(|error| error.to_string())
}

#[test]
fn trls_defaults_are_plain_dpo() {
    let expected = Objective::new(PreferenceLoss::default().into(), None, false).unwrap();
    assert_eq!(TrlConfig::default().objective(), Ok(expected.clone()));
    assert_eq!(objective("{}"), Ok(expected.clone()));
    let written = r#"{"loss_type":"sigmoid","beta":0.1,"label_smoothing":0.0,"f_divergence_type":"reverse_kl",
        "loss_weights":null,"ld_alpha":null,"use_weighting":false}"#;
    assert_eq!(objective(written), Ok(expected.clone()));
    // as a configuration is dumped, with everything in it
    let whole = r#"{"loss_type":["sigmoid"],"beta":0.1,"label_smoothing":0.0,"f_divergence_type":"reverse_kl",
        "f_alpha_divergence_coef":0.5,"discopop_tau":0.05,"loss_weights":null,"ld_alpha":null,"use_weighting":false}"#;
    assert_eq!(objective(whole), Ok(expected.clone()));
    let json = serde_json::to_string(&expected).unwrap();
    assert_eq!(serde_json::from_str::<Objective>(&json).unwrap(), expected);
}

#[test]
fn every_name_of_trl_converts_to_the_loss_of_that_name() {
    for loss in PreferenceLoss::all() {
        let smoothing = if loss.name() == "exo_pair" { Some(1e-3) } else { None };
        let config = TrlConfig {
            loss_type: Some(OneOrMany::One(loss.name().into())),
            label_smoothing: smoothing,
            ..TrlConfig::default()
        };
        match config.objective() {
            Ok(objective) => assert_eq!(objective.losses.terms()[0].loss.name(), loss.name()),
            Err(error) => {
                let ours = ["dpop", "odpo", "r_dpo", "simpo", "alphapo", "cpo", "slic", "orpo", "nll"];
                assert!(ours.contains(&loss.name()), "{error}");
                assert!(error.to_string().starts_with(&format!("unknown loss_type {:?}", loss.name())), "{error}");
            }
        }
    }
}

#[test]
fn parameters_reach_the_losses_that_read_them() {
    let objective = objective(
        r#"{"loss_type":["robust","discopop","sft"],"loss_weights":[0.5,0.25,1],"beta":0.3,"label_smoothing":0.2,
        "discopop_tau":0.1,"f_divergence_type":"alpha_divergence","f_alpha_divergence_coef":0.7,"use_weighting":null}"#,
    )
    .unwrap();
    let (beta, alpha) = (Beta::new(0.3).unwrap(), Alpha::new(0.7).unwrap());
    let divergence = FDivergence::AlphaDivergence { alpha };
    let losses: Vec<PreferenceLoss> = objective.losses.terms().iter().map(|term| term.loss).collect();
    assert_eq!(
        losses,
        [
            PreferenceLoss::Robust { beta, label_smoothing: FlipRate::new(0.2).unwrap(), divergence },
            PreferenceLoss::Discopop { beta, temperature: Temperature::new(0.1).unwrap(), divergence },
            PreferenceLoss::Sft {},
        ]
    );
    assert_eq!(objective.losses.to_string(), "0.5 robust + 0.25 discopop + 1 sft");
}

/// What TRL ignores, mixes up or raises at the first step is an error before anything is loaded.
#[test]
fn what_trl_would_ignore_is_an_error() {
    for (json, expected) in [
        (r#"{"label_smoothing":0.1}"#, "label_smoothing is 0.1, but sigmoid does not read it"),
        (
            r#"{"loss_type":["ipo","hinge"],"label_smoothing":0.1}"#,
            "label_smoothing is 0.1, but ipo, hinge does not read it",
        ),
        (r#"{"discopop_tau":0.1}"#, "discopop_tau is 0.1, but sigmoid does not read it"),
        (r#"{"loss_type":"sft","beta":0.2}"#, "beta is 0.2, but sft does not read it"),
        (
            r#"{"loss_type":"sft","f_divergence_type":"js_divergence"}"#,
            "f_divergence_type is js_divergence, but sft does not read it",
        ),
        (r#"{"f_alpha_divergence_coef":0.7}"#, "f_alpha_divergence_coef is 0.7, but reverse_kl does not read it"),
        (
            r#"{"f_divergence_type":"forward_kl","f_alpha_divergence_coef":0.7}"#,
            "f_alpha_divergence_coef is 0.7, but forward_kl does not read it",
        ),
        (
            r#"{"loss_type":"aot","f_divergence_type":"forward_kl"}"#,
            "f_divergence_type is forward_kl, but aot does not read it",
        ),
        (
            r#"{"loss_type":["sigmoid","bco_pair"],"f_divergence_type":"js_divergence"}"#,
            "f_divergence_type is js_divergence, but bco_pair does not read it",
        ),
        (r#"{"loss_type":"exo_pair"}"#, "label_smoothing is 0, expected a number above 0, normal in f32, to 0.5"),
        (
            r#"{"loss_type":"robust","label_smoothing":0.5}"#,
            "label_smoothing is 0.5, expected a number from 0 to below 0.5",
        ),
        (r#"{"beta":0}"#, "beta is 0, expected a finite number above 0, normal in f32"),
        (r#"{"ld_alpha":1.5}"#, "ld_alpha is 1.5, expected a number from 0 to 1"),
        (r#"{"loss_type":["sigmoid","sft"],"loss_weights":[1]}"#, "loss_weights has shape [1], expected [2]"),
        (r#"{"loss_weights":[-1]}"#, "weight is -1, expected 0 or a finite number above 0, normal in f32"),
        (r#"{"loss_weights":[0]}"#, "the sum of the mixture's weights is 0, expected a number above 0"),
        (r#"{"loss_type":[]}"#, "the number of losses is 0, expected at least 1"),
        (
            r#"{"loss_type":"aot","use_weighting":true}"#,
            "use_weighting and aot do not go together: its losses are not those of single pairs",
        ),
        (
            r#"{"loss_type":["sigmoid","sft"],"ld_alpha":0.5}"#,
            "ld_alpha and sft do not go together: the likelihood of a completion is that of all its tokens",
        ),
        (
            r#"{"f_divergence_type":"kl"}"#,
            "unknown f_divergence_type \"kl\", expected one of reverse_kl, forward_kl, js_divergence, alpha_divergence",
        ),
    ] {
        assert_eq!(objective(json), Err(expected.to_string()), "{json}");
    }
    let error = objective(r#"{"loss_type":"kto_pair"}"#).unwrap_err();
    assert!(error.starts_with("unknown loss_type \"kto_pair\", expected one of sigmoid, hinge, ipo, "), "{error}");
    let error = objective(r#"{"loss_type":3}"#).unwrap_err();
    assert!(error.starts_with("loss_type should be a name or a list of names"), "{error}");
    let error = objective(r#"{"reference_free":true}"#).unwrap_err();
    assert!(error.starts_with("unknown field `reference_free`"), "{error}");
}

/// Text goes through the same check.
#[test]
fn parts_of_an_objective_that_do_not_go_together_are_refused() {
    for (losses, rest, expected) in [
        ("aot", r#""use_weighting": true"#, "use_weighting and aot do not go together"),
        ("nll", r#""ld_alpha": 0.5"#, "ld_alpha and nll do not go together"),
        ("sft", r#""ld_alpha": 0.5"#, "ld_alpha and sft do not go together"),
        ("sigmoid", r#""weighting": true"#, "unknown field `weighting`"),
    ] {
        let loss = serde_json::to_string(&losses.parse::<PreferenceLoss>().unwrap()).unwrap();
        let json = format!(r#"{{"losses": [{{"weight": 1, "loss": {loss}}}], {rest}}}"#);
        let error = serde_json::from_str::<Objective>(&json).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

/// WPO: the losses times the weights of their pairs, and refused without the statistics to weigh by.
#[test]
fn an_objective_weighs_as_wpo_where_it_is_asked_to() {
    let weighted = objective(r#"{"use_weighting":true}"#).unwrap();
    on_every_device(|on| {
        let batch = crate::batch::Batch {
            sequences: 2,
            time: 3,
            vocab: 2,
            logits: vec![0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.5, 0.0, 0.0, 0.0],
            tokens: vec![0, 1, 1, 0, 1, 0],
            mask: vec![false, true, true, false, true, true],
            upstream: vec![1.0; 4],
        };
        let logits = batch.logits(&on.device, DType::F32);
        let statistics = burn_dpo::token_statistics(logits, &batch.completions(&on.device)).unwrap();
        let pairs = weighted.pairs(&statistics.log_probs()).unwrap();
        let losses = numbers(&weighted.losses(&pairs, &pairs, Some(&statistics)).unwrap());
        let weights = numbers(&statistics.wpo_weights().unwrap());
        prop_assert!((losses[0] - weights[0] * std::f64::consts::LN_2).abs() < 1e-6 && weights[0] < 0.9, "{losses:?}");
        let error = weighted.losses(&pairs, &pairs, None).unwrap_err().to_string();
        prop_assert!(error.starts_with("use_weighting and no statistics do not go together"), "{error}");
        Ok(())
    });
}

#[test]
fn an_objective_sums_as_ld_dpo_where_it_is_asked_to() {
    let plain = objective(r#"{"loss_type":"sigmoid"}"#).unwrap();
    let desensitized = objective(r#"{"loss_type":"sigmoid","ld_alpha":0.25}"#).unwrap();
    on_every_device(|on| {
        let batch = crate::batch::Batch {
            sequences: 2,
            time: 4,
            vocab: 2,
            logits: vec![0.0; 16],
            tokens: vec![0, 1, 1, 1, 0, 1, 0, 0],
            mask: vec![false, true, true, true, false, true, false, false],
            upstream: vec![1.0; 6],
        };
        let tokens = batch.score(&on.device, DType::F32);
        let sums = |objective: &Objective| {
            let pairs = objective.pairs(&tokens).unwrap();
            [numbers(&pairs.chosen().sum)[0], numbers(&pairs.rejected().sum)[0]]
        };
        let half = f64::from(0.5f32.ln());
        let close = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).abs() < 1e-6 && (a[1] - b[1]).abs() < 1e-6;
        prop_assert!(close(sums(&plain), [3.0 * half, half]));
        prop_assert!(close(sums(&desensitized), [1.5 * half, half]));
        Ok(())
    });
}
