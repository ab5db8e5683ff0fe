use super::{
    super::{
        naive::{Naive, logits, state_of},
        read_rows::read_rows,
    },
    *,
};

#[test]
fn exponentials_are_probabilities_times_their_sum() {
    let width = 1500;
    let z = logits(3 * width, 6.0, 0.0);
    let targets = [0, IGNORED, i32::MAX];
    let mut states = [SoftmaxState::EMPTY; 3];
    read_rows(&z, width, &targets, 0, false, &mut states);
    for softcap in [None, Some(20.0)] {
        let mut e = z.clone();
        exp_rows(&mut e, width, &targets, &states, softcap);
        for row in [0, 2] {
            let probs = Naive::of(&z[row * width..][..width], 0).probs;
            for (v, p) in probs.iter().enumerate() {
                let index = row * width + v;
                let expected =
                    p * states[row].sum_exp() * softcap.map_or(1.0, |softcap| 1.0 - (z[index] / softcap).powi(2));
                assert!((e[index] - expected).abs() <= 1e-12 * expected, "{} {expected}", e[index]);
            }
        }
        assert!(e[width..2 * width].iter().all(|e| *e == 0.0));
    }
    let mut nan = vec![f32::NAN; 9];
    exp_rows(&mut nan, 9, &[0], &[state_of(&[f32::NAN; 9], 0)], None);
    assert!(nan.iter().all(|e| e.is_nan()));
}
