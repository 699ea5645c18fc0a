"timm's own attention matrices, unfused"


class FullAttention:
    "Every block's CLS row from timm's own unfused attention: the matrix enters `attn_drop`"
    def __init__(self, model): # timm's
        self.rows = []
        for block in model.blocks:
            block.attn.fused_attn = False
            block.attn.attn_drop.register_forward_pre_hook(lambda m, args: self.rows.append(args[0][:, :, 0]))
