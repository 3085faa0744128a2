/* inputs and outputs are the channels of one group; weight [group][output][place][input], where the
   places of a kernel go through the last dimension first: [k2][k0][k1]. */
struct layer {
    struct window window;
    int32_t images, groups, inputs, outputs, zero_point;
    const int8_t *weight;
    const int32_t *bias;
    struct rounding rounding;
};
