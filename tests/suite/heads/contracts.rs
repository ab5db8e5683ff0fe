//! Empty batches, refusals, which tokens count.

use super::*;

#[test]
fn batches_without_a_counted_token_train_without_effect() {
    for_several(cases(), |on, case| {
        let mut case = case.clone();
        case.mask.fill(false);
        let outcome = case.outcome(on, [DType::F32; 2], ALL, false);
        prop_assert!(outcome.log_probs.iter().all(|x| x.to_bits() == 0), "log-probs of nothing");
        for gradient in [outcome.hidden, outcome.weight].map(|gradient| gradient.expect("a gradient")) {
            prop_assert!(gradient.iter().all(|&g| g == 0.0), "gradient of nothing");
        }
        let (loss, ..) = step(&case, on, &LossMixture::from(PreferenceLoss::all()[0]), ALL, true);
        let (expected, ..) = step(&case, on, &LossMixture::from(PreferenceLoss::all()[0]), ALL, false);
        prop_assert_eq!(loss, expected);
        Ok(())
    });
}

#[test]
fn what_does_not_go_together_is_refused() {
    on_every_device(|on| {
        let device = &on.device;
        let completions = Completions::from_sequences(&[[0, 1, 2], [0, 1, 2]], &[1, 1], 5, device).unwrap();
        let hidden = |width| Tensor::<3>::zeros([2, 3, width], (device, DType::F32));
        let weight = || Tensor::<2>::zeros([4, 5], (device, DType::F32));
        let refused = |head: LmHead, hidden: Tensor<3>| {
            let statistics = head.token_statistics(hidden.clone(), &completions).unwrap_err();
            let error = head.token_log_probs(hidden, &completions).unwrap_err();
            assert_eq!(statistics.to_string(), error.to_string());
            error.to_string()
        };
        let head = || LmHead::new(weight(), None);
        prop_assert_eq!(refused(head(), hidden(3)), "hidden has shape [2, 3, 3], expected [2, 3, 4]");
        let short = Tensor::zeros([2, 2, 4], (device, DType::F32));
        prop_assert_eq!(refused(head(), short), "hidden has shape [2, 2, 4], expected [2, 3, 4]");
        let bias = Tensor::zeros([4], (device, DType::F32));
        prop_assert_eq!(refused(LmHead::new(weight(), Some(bias)), hidden(4)), "bias has shape [4], expected [5]");
        let empty = LmHead::new(Tensor::zeros([0, 5], (device, DType::F32)), None);
        prop_assert_eq!(refused(empty, hidden(0)), "weight has shape [0, 5], expected [1, 5]");
        let none = LmHead::new(Tensor::zeros([4, 0], (device, DType::F32)), None);
        prop_assert_eq!(refused(none, hidden(4)), "weight has a vocabulary of 0");
        for (head, name) in [
            (head().with_temperature(0.0), "temperature"),
            (head().with_softcap(-1.0), "softcap"),
            (head().with_scale(f64::NAN), "scale"),
            (head().with_scale(0.0), "scale"),
            (head().with_scale(1e30).with_temperature(1e-30), "scale"),
            (head().with_softcap(1e30).with_temperature(1e-30), "softcap"),
        ] {
            prop_assert!(refused(head, hidden(4)).contains(name));
        }
        let loss = LossMixture::from(PreferenceLoss::all()[0]);
        let pairs = PairLogProbs::from_host(&[(-1.0, 1); 2], &[(-1.0, 1); 2], device).unwrap();
        let error = head().preference_step(hidden(4), &completions, &pairs, &loss).unwrap_err();
        prop_assert_eq!(error.to_string(), "policy holds 1 pairs, but reference holds 2");
        let three = Completions::from_sequences(&[[0, 1], [0, 1], [0, 1]], &[1; 3], 5, device).unwrap();
        let odd = Tensor::zeros([3, 2, 4], (device, DType::F32));
        let error = head().preference_step(odd, &three, &pairs, &loss).unwrap_err();
        prop_assert_eq!(error, Error::OddSequences { sequences: 3 });
        for dtype in on.refused_float_dtypes() {
            // some backends do not even store it
            let stored = || Tensor::<2>::zeros([4, 5], (device, dtype));
            let Ok(weight) = catch_unwind(AssertUnwindSafe(stored)) else { continue };
            let unusable = LmHead::new(weight, None);
            let refused = unusable.token_log_probs(hidden(4), &completions).unwrap_err();
            prop_assert!(matches!(refused, Error::DType { what: "weight", .. }), "{}", refused);
        }
        Ok(())
    });
}

#[test]
fn tensors_under_different_checkpointing_strategies_are_refused() {
    on_every_device(|on| {
        let device = &on.device;
        let completions = Completions::from_sequences(&[[0, 1]], &[1], 5, device).unwrap();
        let hidden = Tensor::<3>::zeros([1, 2, 4], (&on.autodiff().gradient_checkpointing(), DType::F32));
        let head = LmHead::new(Tensor::zeros([4, 5], (&on.autodiff(), DType::F32)), None);
        let error = head.token_log_probs(hidden, &completions).unwrap_err();
        prop_assert_eq!(error, Error::Checkpointing { left: "hidden", right: "weight" });
        let plain = Tensor::<3>::zeros([1, 2, 4], (device, DType::F32));
        let bias = Tensor::<1>::zeros([5], (&on.autodiff().gradient_checkpointing(), DType::F32));
        let head = LmHead::new(Tensor::zeros([4, 5], (&on.autodiff(), DType::F32)), Some(bias));
        let error = head.token_log_probs(plain, &completions).unwrap_err();
        prop_assert_eq!(error, Error::Checkpointing { left: "weight", right: "bias" });
        Ok(())
    });
}

/// The mask that a batch was made with on the host, and one that has to be read, say the same; reading ahead changes nothing.
#[test]
fn completions_know_or_read_which_tokens_count() {
    on_every_device(|on| {
        let device = &on.device;
        let known = Completions::from_sequences(&[vec![0, 1, 2, 3], vec![0, 4, 1]], &[2, 1], 5, device).unwrap();
        let read = Completions::new(known.tokens(), known.mask()).unwrap();
        let ahead = Completions::new(known.tokens(), known.mask()).unwrap();
        wait_for(ahead.locate()).unwrap();
        let weight: Vec<f64> = (0..20).map(|i| f64::from(i) / 10.0).collect();
        let head = LmHead::new(floats(&weight, [4, 5], device, DType::F32), None);
        let hidden: Vec<f64> = (0..32).map(|i| f64::from(i % 11) / 10.0).collect();
        let hidden = floats(&hidden, [2, 4, 4], device, DType::F32);
        let [one, two, three] = [known, read, ahead]
            .map(|completions| bits(&numbers(&head.token_log_probs(hidden.clone(), &completions).unwrap().values())));
        prop_assert_eq!(&one, &two);
        prop_assert_eq!(&one, &three);
        Ok(())
    });
}
