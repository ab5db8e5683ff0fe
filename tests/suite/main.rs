use burn::tensor::{Device, Int, Tensor};
use burn_dpo::*;
#[test]
fn smoke() {
    #[allow(deprecated)]
    for device in [Device::flex(), Device::ndarray()] {
        let device = device.autodiff();
        for time in [0usize, 1, 2, 3] {
            for seqs in [0usize, 2] {
                println!("{device:?} {seqs} {time}");
                let logits = Tensor::<3>::zeros([seqs, time, 4], &device).require_grad();
                let rows = vec![vec![1u32; time]; seqs];
                let c = Completions::from_sequences(&rows, &vec![0; seqs], 4, &device).unwrap();
                if c.dims() != [seqs, time] {
                    println!("dims {:?}", c.dims());
                    continue;
                }
                let p = token_log_probs(logits.clone(), &c).unwrap().sequences().into_pairs().unwrap();
                let r = p.clone().detach();
                let losses = dpo_loss(&p, &r, Beta::new(0.1).unwrap()).unwrap();
                let m = PreferenceMetrics::from_batch(&losses, &p, &r, Beta::new(0.1).unwrap()).unwrap();
                println!("{m:?}");
                let g = losses.sum().backward();
                println!("{:?}", logits.grad(&g).map(|g| g.into_data().iter::<f32>().collect::<Vec<_>>()));
            }
        }
    }
    let _ = Tensor::<1, Int>::from_ints([1], &Device::flex());
}
