"""Configuration of LVM-Med: the encoder, and the objective that trains it."""

# No postponed annotations: `strict` checks only fields whose annotation is a type, not the text of one.
from huggingface_hub.dataclasses import strict
from transformers import SamVisionConfig

from hub.configuration import EmbeddingConfig

RESNETS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
"""Kind of block and blocks a stage, by the names of torchvision."""
ARCHITECTURES = (*RESNETS, "sam_vit")
OBJECTIVES = ("graph_matching", "nt_xent", "barlow_twins", "global_local")
VARIANTS = ("paper", "released")
BACKWARDS = ("closed_form", "solve")


@strict
class LVMMedConfig(EmbeddingConfig):
    """A ResNet with torchvision's names or a ViT as Segment Anything has it, heads and objective.

    The defaults are the published ResNet-50 and the objective of the paper. What the paper leaves open, and what the
    code that was later released does otherwise, is said beside the field.

    Attributes:
        arch: ``resnet18``, ``resnet34``, ``resnet50``, ``resnet101`` or ``sam_vit``.
        width: Channels of a ResNet's stem and of its first stage before expansion; torchvision's is 64.
        depths: Blocks a stage of a ResNet, where they shall not be those of ``arch``; fewer numbers, fewer stages.
        stages: Which stages of a ResNet make the token states, counted from 1; empty for the last. The maps of several
            are averaged to the grid of the deepest of them and concatenated.
        image_size: Side of the images a ViT's tables of relative positions are for, pixels.
        patch_size: Side of a ViT's patch, pixels.
        hidden_size: Width of the token states; of a ResNet it follows from the stages, whatever is given.
        num_hidden_layers: Layers of a ViT; 0 for a ResNet, whose stages differ in width.
        num_attention_heads: Of each layer of a ViT; must divide ``hidden_size``.
        window_size: Side of a ViT's windows of attention, patches.
        global_layers: Layers of a ViT that attend to the whole image.
        neck_size: Channels after the convolutions behind a ViT, which lead to SAM's decoder and not to the embedding.
        initializer_range: Standard deviation of a ViT's initial weights.
        objective: ``graph_matching``, ``nt_xent``, ``barlow_twins`` or ``global_local``, or several joined by ``+``.
        matching_weight: Weight of graph matching beside another objective. Its gradients are 1 / ``strength`` of a
            difference between two matchings, far smaller than those of the others.
        projector_hidden: Widths of the hidden layers of the projector. The paper says "2048x128" without more.
        projection_size: Width of the projections, and of message passing.
        variant: Affinities of the ``paper`` (cosines and the local term) or of the ``released`` code (softplus of inner
            products, a margin on the true matches, edges at half weight, no local term).
        message_passing: ``gcn``, the paper's two normalised convolutions, or ``graphconv``, those of the released code.
        graph_nodes: Images in a graph.
        graph_neighbours: Edges from each image to its nearest neighbours.
        alpha: Weight of the global part of a vertex affinity; the local terms have the rest.
        local: Whether there are local terms.
        local_matches: How many best matching cells they average: by place, and by features. The paper leaves them
            open; the released code has 20 and all.
        second_order: Whether edges are matched too.
        strength: The lambda of the gradient estimate.
        noise_scale: Of the Gumbel noise on the scores. The paper's is 1, which drowns the cosines: see docs/lvm-med.md.
        backward: ``closed_form`` takes the true matching as the target, which it always is with a large ``strength``;
            ``solve`` solves for it.
        solver_restarts: Further random starts of the solver.
        solver_processes: Processes that solve the graphs of a batch; 0 solves them in the training process.
        temperature: Of NT-Xent and of the two parts of ``global_local``.
        redundancy_weight: Of Barlow Twins.
        local_weight: Of the local part of ``global_local``.
    """

    model_type = "lvm_med"

    arch: str = "resnet50"
    width: int = 64
    depths: list[int] | tuple[int, ...] = ()
    stages: list[int] | tuple[int, ...] = ()
    image_size: int = 224
    patch_size: int = 16
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    window_size: int = 14
    global_layers: list[int] | tuple[int, ...] = (2, 5, 8, 11)
    neck_size: int = 256
    initializer_range: float | int = 0.02
    objective: str = "graph_matching"
    matching_weight: float | int = 1.0
    projector_hidden: list[int] | tuple[int, ...] = (2048,)
    projection_size: int = 128
    variant: str = "paper"
    message_passing: str = "gcn"
    graph_nodes: int = 16
    graph_neighbours: int = 5
    alpha: float | int = 0.8
    local: bool = True
    local_matches: list[int] | tuple[int, int] = (20, 20)
    second_order: bool = True
    strength: float | int = 80.0
    noise_scale: float | int = 1.0
    backward: str = "closed_form"
    solver_restarts: int = 0
    solver_processes: int = 0
    temperature: float | int = 0.1
    redundancy_weight: float | int = 0.005
    local_weight: float | int = 1.0

    def __post_init__(self, **kwargs: object) -> None:
        """Take what follows from the architecture: blocks a stage, the width of the states, the number of layers."""
        for name in ("depths", "stages", "global_layers", "projector_hidden", "local_matches"):
            setattr(self, name, list(getattr(self, name)))
        if self.arch in RESNETS:
            self.depths = self.depths or list(RESNETS[self.arch][1])
            self.stages = self.stages or [len(self.depths)]
            if all(1 <= stage <= len(self.depths) for stage in self.stages):
                self.hidden_size = sum(self.stage_widths[stage - 1] for stage in self.stages)
            self.num_hidden_layers = 0
        super().__post_init__(**kwargs)

    def validate_sizes(self) -> None:
        """Raise ValueError when the architecture does not exist or its sizes do not fit together."""
        if self.arch not in ARCHITECTURES:
            raise ValueError(f"arch={self.arch!r} is none of {', '.join(ARCHITECTURES)}")
        if self.arch in RESNETS and not all(1 <= stage <= len(self.depths) for stage in self.stages):
            raise ValueError(f"stages={self.stages}: there are the stages 1 to {len(self.depths)}")
        if self.arch == "sam_vit" and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if self.arch == "sam_vit" and self.image_size % self.patch_size:
            raise ValueError(f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}")
        for name in ("width", "projection_size", "graph_neighbours"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")

    def validate_objective(self) -> None:
        """Raise ValueError when a choice of the objective does not exist or its numbers cannot be."""
        unknown = set(self.objectives) - set(OBJECTIVES)
        if unknown:
            raise ValueError(f"objective={self.objective!r}: choose among {', '.join(OBJECTIVES)}, joined by +")
        for name, known in (
            ("variant", VARIANTS),
            ("message_passing", ("gcn", "graphconv")),
            ("backward", BACKWARDS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(known)}")
        if self.variant == "released" and self.local:
            raise ValueError("variant='released' has no local term: set local to false")
        if self.graph_nodes < 2:
            raise ValueError(f"graph_nodes={self.graph_nodes}: a graph has at least 2 nodes")
        if not 0 <= self.alpha <= 1 or not self.strength > 0 or not self.temperature > 0 or self.noise_scale < 0:
            raise ValueError("alpha lies between 0 and 1, strength and temperature above 0, noise_scale at or above it")

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives that are summed."""
        return tuple(self.objective.split("+"))

    @property
    def block(self) -> str:
        """Kind of a ResNet's blocks: ``basic`` or ``bottleneck``."""
        return RESNETS[self.arch][0]

    @property
    def stage_widths(self) -> list[int]:
        """Channels of each stage of a ResNet."""
        expansion = 4 if self.block == "bottleneck" else 1
        return [self.width * 2**stage * expansion for stage in range(len(self.depths))]

    @property
    def map_size(self) -> int:
        """Channels of the last map, which the pretext task reads: of a ResNet's last stage, or of a ViT's layer."""
        return self.stage_widths[-1] if self.arch in RESNETS else self.hidden_size

    def map_side(self, size: int) -> int:
        """Cells along a side of the last map, of an image of ``size`` pixels."""
        if self.arch not in RESNETS:
            return size // self.patch_size
        return -(-size // 2 ** (1 + len(self.depths)))

    def vit_config(self) -> SamVisionConfig:
        """Return the ViT's configuration as transformers has it: no table of absolute positions."""
        return SamVisionConfig(
            hidden_size=self.hidden_size,
            output_channels=self.neck_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            image_size=self.image_size,
            patch_size=self.patch_size,
            window_size=self.window_size,
            global_attn_indexes=list(self.global_layers),
            initializer_range=float(self.initializer_range),
            use_abs_pos=False,
        )
