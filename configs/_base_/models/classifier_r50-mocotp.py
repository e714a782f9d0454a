# From MoCo-TP, trained on fMoW's images (github.com/sustainlab-group/geography-aware-ssl). The file is in the authors'
# bundle of starts: https://worksheets.codalab.org/bundles/0x57abca4a55ec4f7e9908098beb2633c6
_base_ = './classifier_r50-moco.py'
model = dict(backbone=dict(init_cfg=dict(checkpoint='data/mocotp_checkpoint_0200.pth.tar')))
