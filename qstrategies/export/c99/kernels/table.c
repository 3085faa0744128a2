static void table(const uint8_t *x, uint8_t *y, int32_t elements, const uint8_t values[256])
{
    for (int32_t i = 0; i < elements; i++)
        y[i] = values[x[i]];
}
