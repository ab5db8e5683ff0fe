//! Mistakes of other implementations that this crate does not make, each beside what the crate gives instead.

use burn::tensor::{Tensor, activation::relu, s};
use burn_dpo::{
    Beta, Completions, Error, LdAlpha, PairLogProbs, PreferenceBatch, PreferenceLoss, ReferenceDrift, SequenceLogProbs,
    dpo_loss, implicit_rewards, token_log_probs,
};

use crate::{devices::on_every_device, host::numbers};

/// burn takes 0 for the derivative of relu and of |x| at 0. So a softplus made of the two is flat where policy and reference
/// agree, and training never starts. The loss has its derivative there: `∓β/2`.
#[test]
fn a_softplus_of_relu_and_abs_is_flat_where_policy_and_reference_agree() {
    on_every_device(|on| {
        let leaf = || Tensor::<1>::from_floats([-3.0, -5.0], &on.autodiff()).require_grad();
        let sums = |sum: Tensor<1>| {
            SequenceLogProbs::new(sum, Tensor::from_ints([4, 4], &on.device)).unwrap().into_pairs().unwrap()
        };

        let by_hand = leaf();
        let margin = by_hand.clone().slice(s![0..1]) - by_hand.clone().slice(s![1..2]) - 2.0; // the reference's margin is 2
        let x = margin * -0.1;
        let loss = relu(x.clone()) + (x.abs().neg().exp() + 1.0).log();
        assert_eq!(numbers(&by_hand.grad(&loss.sum().backward()).unwrap()), [0.0, 0.0], "{}", on.name);

        let policy = leaf();
        let reference = sums(leaf().detach());
        let losses = dpo_loss(&sums(policy.clone()), &reference, Beta::new(0.1).unwrap()).unwrap();
        let gradient = numbers(&policy.grad(&losses.sum().backward()).unwrap());
        let half = f64::from(0.1f32) / 2.0;
        assert_eq!(gradient, [-half, half], "{}", on.name);
        Ok(())
    });
}

/// LD-DPO weighs the tokens of policy and reference alike. With α on one side only, margins are not 0 at the start.
#[test]
fn an_ld_alpha_on_one_side_only_is_refused() {
    on_every_device(|on| {
        let tokens = [[1u32, 2, 3, 0, 1], [1, 2, 3, 3, 2]];
        let completions = Completions::from_sequences(&tokens, &[2, 1], 4, &on.device).unwrap();
        let scored = token_log_probs(Tensor::<3>::ones([2, 5, 4], &on.device), &completions).unwrap();
        let alpha = |alpha| scored.length_desensitized_pairs(LdAlpha::new(alpha).unwrap()).unwrap();
        let (plain, halved) = (scored.sequences().into_pairs().unwrap(), alpha(0.5));
        let beta = Beta::new(0.1).unwrap();

        let refused = |policy: &PairLogProbs, reference: &PairLogProbs| {
            let losses = dpo_loss(&plain, &plain, beta).unwrap();
            let mut errors: Vec<Option<Error>> = PreferenceLoss::all()
                .iter()
                .filter(|loss| loss.needs_reference())
                .map(|loss| loss.losses(policy, reference).err())
                .collect();
            errors.push(implicit_rewards(policy, reference, beta).err());
            errors.push(PreferenceBatch::new(&losses, policy, reference, beta).measure().err());
            errors.push(ReferenceDrift::measure(policy, reference).err());
            errors.into_iter().map(|error| matches!(error, Some(Error::LdAlpha { .. }))).collect::<Vec<_>>()
        };
        assert!(refused(&halved, &plain).iter().all(|&refused| refused), "{}: {:?}", on.name, refused(&halved, &plain));
        assert!(refused(&plain, &halved).iter().all(|&refused| refused), "{}", on.name);
        assert!(refused(&halved, &alpha(0.25)).iter().all(|&refused| refused), "{}", on.name);
        // The same on both sides, and an α of 1, which is the plain sum.
        assert!(!refused(&halved, &alpha(0.5)).contains(&true), "{}", on.name);
        assert!(!refused(&alpha(1.0), &plain).contains(&true), "{}", on.name);
        Ok(())
    });
}
