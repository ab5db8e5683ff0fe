//! Log-probs by what burn alone has.

use burn::tensor::{FloatDType, Int, Tensor, activation::log_softmax, s};
use burn_dpo::{Completions, Result, SequenceLogProbs};

/// `[sequences, time − 1]`, in f32, as trainers compute. Ids are shifted, not logits: that would copy them.
pub fn token_log_probs(logits: Tensor<3>, completions: &Completions) -> Tensor<2> {
    let [sequences, time] = completions.dims();
    let (tokens, mask) = (completions.tokens(), completions.mask());
    let last = Tensor::<2, Int>::zeros([sequences, 1], (&tokens.device(), tokens.dtype()));
    let next = Tensor::cat(vec![tokens.slice(s![.., 1..]), last], 1);
    let log_probs = log_softmax(logits.cast(FloatDType::F32), 2).gather(2, next.unsqueeze_dim(2)).squeeze_dim::<2>(2);
    log_probs.slice(s![.., 0..time - 1]).mask_fill(mask.slice(s![.., 1..]).bool_not(), 0.0)
}

pub fn sequence_log_probs(logits: Tensor<3>, completions: &Completions) -> Result<SequenceLogProbs> {
    let counted = completions.mask().slice(s![.., 1..]).int();
    SequenceLogProbs::new(
        token_log_probs(logits, completions).sum_dim(1).squeeze_dim(1),
        counted.sum_dim(1).squeeze_dim(1),
    )
}
