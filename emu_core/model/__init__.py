"""The paper in one sitting: temporal layers on a frozen text-to-image U-Net, what they are given, the noise, the guidance, the
steps. torch, numpy and einops alone are needed here."""
