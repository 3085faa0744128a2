struct product {
    struct pair pair;
    int32_t a_zero_point, b_zero_point;
    struct rounding rounding;
};

static void product(const uint8_t *a, const uint8_t *b, uint8_t *y, const struct product *s)
{
    const struct pair *t = &s->pair;

    for (int32_t i = 0; i < t->elements; i++) {
        const int32_t left = a[offset(&t->dimensions, t->a_step, i)] - s->a_zero_point;
        const int32_t right = b[offset(&t->dimensions, t->b_step, i)] - s->b_zero_point;

        y[i] = rounded(left * right, 0, &s->rounding);
    }
}
